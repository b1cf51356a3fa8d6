"""A worker of a server, in a process of its own: python transfer_worker.py MEETING RANK DEVICE

It receives what a trainer sends to a meeting (JSON), says of each bucket that it is there, and at the end the
checksums of what it has, or why it has nothing.
"""

import json
import sys

import torch

from hone.checksums import checksums
from hone.samplers.vllm_meeting import Meeting
from hone.samplers.vllm_parcel import arriving
from hone.samplers.vllm_worker import channel


class Telling:
    def __init__(self, inner):
        self.inner = inner

    def receive(self, size):
        bucket = self.inner.receive(size)
        print(json.dumps("a bucket"), flush=True)
        return bucket


told = json.loads(sys.argv[1])
try:
    own = channel(Meeting.joined(told), int(sys.argv[2]), torch.device(sys.argv[3]))
    came = arriving(Telling(own), told["outline"])
    print(json.dumps(checksums(came)))
except OSError as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
