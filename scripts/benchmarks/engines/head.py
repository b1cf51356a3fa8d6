"""Peak memory of one forward and backward pass through a head of SmolLM2's shape."""

import torch

from benchmarks import memory
from benchmarks.engine import Turns
from hone.policies import head


def main() -> None:
    turns = Turns()
    steps, chunked = turns.settings["steps"], turns.settings["chunked"]
    hidden = torch.randn(steps, 576, requires_grad=True)
    weight = torch.randn(49152, 576, requires_grad=True)
    targets = torch.randint(0, 49152, (steps,))
    weight.grad = torch.zeros_like(weight)
    before = memory.peak(children=False)
    if chunked:
        size = head.chunk_size(49152, 256)
        log_probs, _ = head.chunked(lambda h: h @ weight.T, hidden, targets, 1.0, chunk=size)
    else:
        log_probs = (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])
    log_probs.sum().backward()
    turns.reply(grown=memory.peak(children=False) - before)


if __name__ == "__main__":
    main()
