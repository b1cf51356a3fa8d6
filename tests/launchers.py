"""The command line under a real launcher."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCHERS = {
    "torchrun": "torch.distributed.run --nproc-per-node 2",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no",
}


def launched(launcher, *arguments, timeout=120):
    """How it ends in two processes."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", "hone.cli", *arguments],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
