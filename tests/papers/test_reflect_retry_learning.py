"""The claim of Reflect, Retry, Reward in miniature: the reflection learns, and what is around it stays as it was.

A small model is first taught the form of three turns. Asked for a letter, it tries x, y or z, which is never right.
Asked why, it says one of eight capitals, any. Asked again, it says the digit that belongs to that capital, mostly;
without a reflection it has nothing to go by. The right digit is that of the question. So only a reflection that names
the right capital solves a task, and whoever trained the retry could do without one.
"""

import random
from dataclasses import replace

import loop_parts as parts
import pytest
from tiny import TINY

import hone
from hone.papers.reflect_retry import ReflectRetry
from hone.types import Score

pytestmark = pytest.mark.slow

QUESTIONS, TRIES, HINTS, DIGITS = "abcdefgh", "xyz", "ABCDEFGH", "01234567"
TRAINED = 6
"""Questions of the run; the others are other inputs."""
FAITHFUL = 0.75
"""How often the retry is taught to go by the reflection; else it says any digit, so that it could learn something."""
END, USER, ASSISTANT = 256, 259, 260
TURNS = {"reflect_prompt": "why", "retry_prompt": "again", "blind_prompt": "so?", "reflection_tokens": 2}


def digit_of_the_question(task, trajectory) -> Score:
    return Score(float(trajectory.response == DIGITS[QUESTIONS.index(task.answer)]))


@hone.settings
class Everything(ReflectRetry):
    """What the paper does not do: all that the policy said is trained on."""

    async def play_group(self, task, n, **rest):
        group = await super().play_group(task, n, **rest)
        for trajectory in group:
            trajectory.segments = [replace(s, train=s.source == "policy") for s in trajectory.segments]
        return group


def said(text):
    return [USER, *text.encode(), END, ASSISTANT]


def conversation(question, attempt, hint, digit):
    """Tokens, and which of them are the assistant's."""
    turns = [(question, attempt), ("why", hint), ("again", digit)]
    return [
        pair for told, reply in turns for pair in (*((t, False) for t in said(told)), (ord(reply), True), (END, True))
    ]


def draw(choose):
    hint = choose.choice(HINTS)
    digit = DIGITS[HINTS.index(hint)] if choose.random() < FAITHFUL else choose.choice(DIGITS)
    return conversation(choose.choice(QUESTIONS), choose.choice(TRIES), hint, digit)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_tokenizer):
    """A folder with the model that knows the form."""
    import torch
    import transformers

    width = {"hidden_size": 96, "intermediate_size": 192, "head_dim": 24, "initializer_range": 0.05}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model("llama", **TINY | width)
        )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 50, 410)
    choose = random.Random(0)
    for _ in range(400):
        ids, replies = torch.tensor([draw(choose) for _ in range(96)]).unbind(-1)
        logits = model(input_ids=ids).logits[:, :-1]
        chosen = replies[:, 1:].bool()
        torch.nn.functional.cross_entropy(logits[chosen], ids[:, 1:][chosen]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folder), tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def train(taught, tmp_path_factory):
    """``train(environment, seed) -> (run, before, after)``: what the models say in every conversation."""
    import transformers

    def train(environment, seed):
        config = parts.settings(
            taught,
            tmp_path_factory.mktemp("learn") / "run",
            tasks=parts.Letters(kinds=TRAINED),
            verifier=digit_of_the_question,
            environment=environment,
            seed=seed,
            sampling={"max_tokens": 4},
            steps=72,
            prompts=TRAINED,
            siblings=32,
            objective={"policy_gradient": {"penalties": [{"kl_penalty": {"coefficient": 0.001, "estimator": "k2"}}]}},
            optimizer={"lr": 6e-4, "eps": 1e-5, "warmup_steps": 10},
            checkpoint={"at_end": False},
        )
        trainer = hone.Trainer(hone.Config(**config))
        run = trainer.fit()
        before = transformers.AutoModelForCausalLM.from_pretrained(taught)
        return run, spoken(before), spoken(trainer.policy.model)

    return train


def spoken(model):
    """Log-probabilities of all tokens at each reply, given every possible conversation before it.

    Returns:
        For the attempt ``[8, 2, V]``, the reflection ``[8, 3, 2, V]`` and the retry ``[8, 3, 8, 2, V]``: by question,
        attempt and hint; at the reply itself (what it says) and at its end.
    """
    import torch

    every = [(q, x, w) for q in QUESTIONS for x in TRIES for w in HINTS]
    ids = torch.tensor([[token for token, _ in conversation(q, x, w, DIGITS[HINTS.index(w)])] for q, x, w in every])
    replies = [i - 1 for i, (_, own) in enumerate(conversation("a", "x", "A", "0")) if own]
    with torch.no_grad():
        scores = model(input_ids=ids).logits.log_softmax(-1)[:, replies].view(8, 3, 8, 6, -1)
    return {"attempt": scores[:, 0, 0, :2], "reflection": scores[:, :, 0, 2:4], "retry": scores[..., 4:, :]}


def moved(before, after, what):
    """How far what is said has moved, KL(before || after) in nats by question: ``[8]``."""
    p, q = before[what], after[what]
    return (p.exp() * (p - q)).sum(-1).flatten(1).mean(1)


def against_their_reflection(scores):
    """Of retries whose reflection names another digit than that of the question: how many say that of either."""
    ids = [ord(digit) for digit in DIGITS]
    says = scores["retry"][:TRAINED, :, :, 0].exp()[..., ids].mean(1)  # question, hint, digit
    cases = [(q, w) for q in range(TRAINED) for w in range(8) if q != w]
    return tuple(sum(float(says[q, w, at]) for q, w in cases for at in [(w, q)[of]]) / len(cases) for of in (0, 1))


@pytest.fixture(scope="module")
def masked(train):
    return train(ReflectRetry(**TURNS, blind=1), seed=0)


def test_only_reflections_solve_the_task_and_they_learn_to(masked):
    run, before, after = masked
    _, reward = run.series("reflect/retry")
    assert 0.05 < reward[:8].mean() < 0.2  # one of eight, when the retry is faithful
    assert reward[-5:].mean() > 0.4
    assert run.series("reflect/first_try")[1].max() == 0
    assert run.series("reflect/blind")[1][-20:].mean() < 0.25  # a guess, to the end
    right = [float(after["reflection"][q, :, 0, ord(HINTS[q])].exp().mean()) for q in range(TRAINED)]
    assert sum(right) / TRAINED > 0.5
    assert moved(before, after, "reflection")[:TRAINED].mean() > 0.7


def test_attempts_and_retries_stay_as_they_were_also_on_other_inputs(masked):
    """All share their weights, so nothing stays exactly; but what has no gradient of its own moves far less."""
    _, before, after = masked
    learned = moved(before, after, "reflection")[:TRAINED].mean()
    for what in ("attempt", "retry"):
        for questions in (slice(None, TRAINED), slice(TRAINED, None)):
            drift = moved(before, after, what)[questions]
            assert drift.max() < 0.06
            assert drift.mean() < learned / 20


def test_the_retry_still_goes_by_the_reflection_where_that_is_wrong(masked, train):
    """The mask is what keeps it so: with all tokens trained, it learns to answer over the reflection's head."""
    _, before, after = masked
    _, _, unmasked = train(Everything(**TURNS), seed=0)
    faithful, knowing = against_their_reflection(before)
    assert faithful == pytest.approx(FAITHFUL + (1 - FAITHFUL) / 8, abs=0.06)
    assert knowing == pytest.approx((1 - FAITHFUL) / 8, abs=0.03)
    assert against_their_reflection(after) == pytest.approx((faithful, knowing), abs=0.08)
    trained_faithful, trained_knowing = against_their_reflection(unmasked)
    assert trained_faithful < faithful - 0.15
    assert trained_knowing > knowing + 0.12
    assert moved(before, unmasked, "retry").mean() > 10 * moved(before, after, "retry").mean()
