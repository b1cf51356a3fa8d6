"""Weights from one process to another through a GPU's memory, and from one GPU to another."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
import torch

from hone.checksums import checksums
from hone.samplers import vllm_parcel
from hone.samplers.vllm_senders import Direct

WORKER = Path(__file__).parents[1] / "samplers" / "transfer_worker.py"


def arrived(transfer, weights, device):
    """Checksums of what a worker in a process of its own has received, and the number of buckets."""

    async def work():
        sender = Direct(transfer, "127.0.0.1", 60.0)
        name = sender.put(weights.items(), 0)
        async with sender.delivery(name, [{"workers": 1, "device": "cuda"}]) as (parts, _):
            told = json.dumps(parts[0]["meeting"])
            worker = await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), told, "1", device, stdout=asyncio.subprocess.PIPE
            )
            lines = (await worker.communicate())[0].decode().splitlines()
        return json.loads(lines[-1]), len(lines) - 1

    return asyncio.run(asyncio.wait_for(work(), 120))


@pytest.mark.parametrize("transfer", ["ipc", "collective"])
def test_what_arrives_is_what_was_sent(transfer, monkeypatch):
    if transfer == "collective" and torch.cuda.device_count() < 2:
        pytest.skip("NCCL wants a GPU for each process")
    monkeypatch.setattr(vllm_parcel, "SIZE", 2**20)
    draw = torch.Generator().manual_seed(0)
    weights = {f"w{i}": torch.randn(1000 + i, 257, generator=draw).bfloat16().cuda() for i in range(9)}
    found, buckets = arrived(transfer, weights, "cuda:1" if transfer == "collective" else "cuda:0")
    assert buckets > 3
    assert found == checksums(weights.items())
