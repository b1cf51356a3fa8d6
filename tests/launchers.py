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


def launched(launcher, *arguments, module="hone.cli", timeout=120):
    """How it ends in two processes."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", module, *arguments]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            told = launcher.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # and its processes, of which nothing is to stay
            launcher.communicate(timeout=60)
            raise
    return subprocess.CompletedProcess(command, launcher.returncode, *told)
