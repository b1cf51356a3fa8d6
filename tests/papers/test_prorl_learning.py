"""The claim of ProRL in miniature: resets lead off a plateau on which a fixed reference holds the policy.

The policy is to answer with many e; a random one does so in one token of a hundred. A token more is worth a fifth of a
reward, so under the penalty the odds of e rise by exp(0.2 / 0.1) = 7 at most, over those of the reference.
"""

import loop_parts as parts
import pytest
from loop_parts import Letters

import hone

METRIC = "eval/letters/accuracy"
RESETS = {"triggers": [{"plateau": {"metric": METRIC, "patience": 2, "min_delta": 0.02}}], "cooldown": 20}
MIDDLE, LAST = slice(60, 90), slice(-30, None)


@pytest.fixture(scope="module")
def train(tiny_model_path, tmp_path_factory):
    """``train(seed, *hooks) -> Run``: from random weights, under a strong penalty.

    So many answers a step and so low a rate that a plateau is flat: with a third of them, it wanders by its own height.
    """

    def train(seed, *hooks):
        penalty = {"kl_penalty": {"coefficient": 0.1, "estimator": "k2"}}
        config = parts.settings(
            tiny_model_path,
            tmp_path_factory.mktemp("prorl") / "run",
            verifier=parts.letter_e,
            seed=seed,
            steps=120,
            prompts=8,
            siblings=12,
            advantage="centred",
            gate="everything",
            objective={"policy_gradient": {"surrogate": {"ppo_clip": {"high": 0.4}}, "penalties": [penalty]}},
            optimizer={"lr": 3e-3},
            eval={
                name: {"tasks": Letters(), "items": 8, "siblings": 4, "every": 5, "sampling": {"max_tokens": 5, **how}}
                for name, how in (("letters", {}), ("sampled", {"temperature": 1.0}))
            },
            checkpoint={"at_end": False},
            hooks=[{"log": {"tensorboard": False, "rollouts": False}}, *hooks],
        )
        return hone.Trainer(hone.Config(**config)).fit()

    return train


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_resets_lead_off_the_plateau_of_a_fixed_reference(train, seed):
    fixed, moving = train(seed), train(seed, {"prorl": RESETS})
    first = next(row["step"] for row in moving.metrics if row.get("reset/happened"))
    for name in ("reward/mean", "loss", "kl/mean"):  # one and the same run, up to the first reset
        assert fixed.series(name)[1][:first].tolist() == moving.series(name)[1][:first].tolist()

    reward, kl = fixed.series("reward/mean")[1], fixed.series("kl/mean")[1]
    assert reward[LAST].mean() < 0.12
    assert abs(reward[LAST].mean() - reward[MIDDLE].mean()) < 0.05  # it stands still,
    assert 0.75 < kl[LAST].mean() / kl[MIDDLE].mean() < 1.33  # as far from the reference as the reward is worth

    assert moving.series("reward/mean")[1][LAST].mean() > 0.5
    after, plateau = (run.series("eval/sampled/accuracy")[1][-4:].mean() for run in (moving, fixed))
    assert after > plateau + 0.4  # sampled: the greedy answers of a plateau are e by chance, up to half of them
    happened = [row["step"] for row in moving.metrics if row.get("reset/happened")]
    assert happened == resets_by_hand(dict(zip(*moving.series(METRIC), strict=True)))  # how many, goes by the seed
    assert len(happened) == moving.metrics[-1]["reset/count"] <= 6


def resets_by_hand(accuracy):
    """Two evaluations in a row no more than 0.02 above the best since the last reset, which is 20 steps ago."""
    resets, best, worse = [], None, 0
    for step in range(121):
        if step in accuracy:
            better = best is None or accuracy[step] - best > 0.02
            best, worse = (accuracy[step], 0) if better else (best, worse + 1)
        if worse >= 2 and (not resets or step - resets[-1] >= 20):
            resets, best, worse = [*resets, step], None, 0
    return resets
