"""TRL's GRPOTrainer, an optimiser step a turn, with its own sampling by transformers' generate.

float32: float32 weights. bfloat16 is what TRL's ``bf16=True`` does: the weights stay float32, which are also what the
optimiser updates, and every forward pass, those of generate included, runs under torch's autocast, which rounds the
weights of each matrix product to bfloat16 anew.
"""

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks import memory, models, work
from benchmarks.engine import Turns
from benchmarks.rates import wait


class OnCommand(TrainerCallback):
    """Holds the run until the next turn, and tells of the step."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.device = turns, turns.settings["device"]
        self.tokens = self.completions = self.prompt = 0
        self.sampling = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.turns.reply()
        self._go(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait(self.device)
        seconds = time.perf_counter() - self.started
        self.turns.reply(
            seconds=seconds,
            update=seconds - self.sampling,
            tokens=self.tokens,
            completions=self.completions,
            prompt=self.prompt,
            **memory.peaks(),
            device_peak=memory.device_peak(self.device),
        )
        self._go(control)

    def _go(self, control: Any) -> None:
        self.tokens = self.completions = self.prompt = 0
        self.sampling = 0.0
        memory.device_reset(self.device)
        if self.turns.wait() is None:
            control.should_training_stop = True

    def reward(
        self, completions: list[Any], completion_ids: list[list[int]], signal: list[bool], **_: Any
    ) -> list[float]:
        """The same as hone's, on the texts of a batch; it counts the tokens by the way."""
        self.tokens += sum(map(len, completion_ids))
        self.completions += len(completion_ids)
        texts = [completion[0]["content"] for completion in completions]
        return [work.by_hash(text) if on else 0.0 for text, on in zip(texts, signal, strict=True)]

    def watch(self, model: Any, siblings: int) -> None:
        """Time what the model spends in generate."""
        generate = model.generate

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            made = generate(*args, **kwargs)
            wait(self.device)
            self.sampling += time.perf_counter() - started
            self.prompt += int(kwargs["attention_mask"].sum()) // siblings
            return made

        model.generate = timed


def main() -> None:
    turns = Turns()
    s = turns.settings
    tokenizer = AutoTokenizer.from_pretrained(s["folder"], padding_side="left")
    model = models.load(s, s["trl_weights"])
    command = OnCommand(turns)
    command.watch(model, s["siblings"])
    sequences = len(s["messages"]) * s["siblings"]
    micro = min(s["micro"], sequences)
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=s["device"] == "cpu",
            bf16=s["dtype"] == "bfloat16",
            learning_rate=s["lr"],
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            weight_decay=0.0,
            max_grad_norm=1.0,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=sequences // micro,
            gradient_checkpointing=s["checkpointing"],
            num_generations=s["siblings"],
            max_completion_length=s["tokens"],
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            beta=0.0,
            epsilon_high=0.2,
            shuffle_dataset=False,
            max_steps=10**6,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = Dataset.from_list(
            [{"prompt": chat, "signal": signal} for chat, signal in zip(s["messages"], s["signal"], strict=True)]
        )
        GRPOTrainer(model, command.reward, config, rows, processing_class=tokenizer, callbacks=[command]).train()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
