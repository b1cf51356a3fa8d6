import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """``processes(job, n, folder=None, **given) -> (folder, results)``: n processes do a job of ``forked.py``."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    server = subprocess.Popen(
        [sys.executable, str(HERE / "forked.py")],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def do(job, n, folder=None, fails=False, **given):
        import torch

        folder = folder or tmp_path_factory.mktemp(job)
        server.stdin.write(json.dumps({"job": job, "processes": n, "folder": str(folder), **given}) + "\n")
        server.stdin.flush()
        told = json.loads(server.stdout.readline())
        if fails:
            return folder, told
        assert told["statuses"] == [0] * n, told["logs"]
        return folder, [torch.load(folder / f"{place}.pt", weights_only=False) for place in range(n)]

    yield do
    server.stdin.close()
    server.wait(timeout=30)
