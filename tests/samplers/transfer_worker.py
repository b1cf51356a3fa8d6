"""A worker of a server, in a process of its own: python transfer_worker.py MEETING RANK

It receives what a trainer sends to a meeting (JSON), says of each bucket that it is there, and at the end the
checksums of what it has, or why it has nothing.
"""

import json
import sys

import torch

from hone.checksums import checksums
from hone.samplers.vllm_broadcast import Broadcast
from hone.samplers.vllm_meeting import Meeting
from hone.samplers.vllm_parcel import arriving


class Telling(Broadcast):
    def receive(self, size):
        bucket = super().receive(size)
        print(json.dumps("a bucket"), flush=True)
        return bucket


told = json.loads(sys.argv[1])
try:
    channel = Telling(Meeting.joined(told), int(sys.argv[2]), "gloo", torch.device("cpu"))
    print(json.dumps(checksums(arriving(channel, told["outline"]))))
except OSError as error:
    print(json.dumps(f"{type(error).__name__}: {error}"))
