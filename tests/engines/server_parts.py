"""Servers that `hone serve` starts, and samplers that ask them."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import loop_parts as parts
import yaml
from engine_parts import ENGINE

from hone.samplers.vllm_server import VLLMServers

KEY = "a key"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Servers:
    """Two servers, each in a process group of its own."""

    def __init__(self, model, folder, **settings):
        self.folder, self.ports, self.processes = folder, [free_port(), free_port()], {}
        self.settings = {
            "urls": [f"http://127.0.0.1:{port}" for port in self.ports], "engine": ENGINE, "context": 512,
            "patience": 300, **(settings or {"exchange": str(folder / "exchange")}),
        }  # fmt: skip
        self.model = model
        self.write()

    def write(self):
        config = {
            "model": {"path": self.model, "dtype": "float32"}, "tasks": "loop_parts:Letters",
            "verifier": "loop_parts:low", "sampler": {"vllm_server": self.settings},
        }  # fmt: skip
        (self.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def start(self, port):
        command = [sys.executable, "-m", "hone.cli", "serve", str(self.folder / "config.yaml"), "--port", str(port)]
        tests = str(Path(parts.__file__).parent)
        environment = {
            **os.environ, "HONE_API_KEY": KEY, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "PYTHONPATH": os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")])),
        }  # fmt: skip
        with (self.folder / f"{port}.log").open("a") as log:
            self.processes[port] = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )

    def kill(self, port):
        os.killpg(self.processes.pop(port).pid, signal.SIGKILL)


@contextmanager
def started(model, folder, **settings):
    """Both servers, until the end."""
    made = Servers(model, folder, **settings)
    try:
        for port in made.ports:
            made.start(port)
        yield made
    finally:
        for port in list(made.processes):
            made.kill(port)


@contextmanager
def synced(servers):
    """``make(policy, **settings)``: a sampler that has given them its weights; it is closed at the end."""
    opened = []

    def make(policy, **settings):
        opened.append(VLLMServers(**{**servers.settings, **settings}))
        opened[-1].sync(policy)
        return opened[-1]

    try:
        yield make
    finally:
        for each in opened:
            each.close()
