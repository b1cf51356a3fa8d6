"""The machine's rates, measured between the turns of the other engines, so that all saw the same machine."""

import torch

from benchmarks import rates
from benchmarks.engine import Turns


def main() -> None:
    turns = Turns()
    s = turns.settings
    dtype = getattr(torch, s["dtype"])
    turns.reply(machine=rates.machine(s["device"]))
    for request in turns:
        found = {"square": rates.square(dtype, s["device"]), "copied": rates.copied(s["device"])}
        if tokens := request.get("tokens"):
            found |= rates.products(s["folder"], tokens, dtype, s["device"])
        if sequences := request.get("sequences"):
            found["step"] = rates.decode_products(s["folder"], sequences, dtype, s["device"])
        turns.reply(**found)


if __name__ == "__main__":
    main()
