"""Runs that are killed at a chosen moment. A process of its own, which forks one for each run it is asked for.

The slow imports come before the forks, so that a run takes seconds; nothing has made a thread by then. It reads a JSON
object a line, ``{"config", "folder", "resume", "kill"}``, and answers each with how the run ended. ``kill`` is
``[place, number, fraction]``: at which call of which function, and how far into what it writes. The place "clock" is a
time in seconds instead of a number.
"""

import io
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import hone

counts = Counter()


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # in whatever thread: the others are as dead


def places():
    """Where a run may die: a name, the function's owner and its name, and what to leave half done."""
    import torch

    from hone import checkpoint, folder
    from hone.hooks import jsonl
    from hone.hooks.evaluate import Evaluate
    from hone.learner import Learner
    from hone.policies.causal_lm import CausalLM
    from hone.samplers.native import NativeSampler
    from hone.synthesis import journal
    from hone.trainer import Trainer
    from hone.types import Trajectory
    from hone.verifiers.pool import VerifierPool

    def half_an_append(fraction, path, rows):
        lines = "".join(json.dumps(row, default=str) + "\n" for row in rows).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(lines[: int(fraction * len(lines))])

    def half_a_file(fraction, state, file):
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: int(fraction * whole.tell())])
        file.flush()

    def half_a_folder(fraction, path, **_):
        files = sorted(file for file in Path(path).rglob("*") if file.is_file())
        for file in files[: int(fraction * len(files))]:
            file.unlink()

    def weights_alone(fraction, policy, where):
        policy.model.save_pretrained(where)
        half_a_folder(fraction, where)

    save = torch.save
    return [
        ("sampling", NativeSampler, "_decode", None),
        ("asking a verifier", VerifierPool, "_settle", None),
        ("a verdict", Trajectory, "judge", None),
        ("an optimiser step", Learner, "_step", None),
        ("the weights' advance", CausalLM, "advance", None),
        ("moving the reference", Trainer, "_anchor", None),
        ("an evaluation", Evaluate, "_evaluate", None),
        ("lines of the log", jsonl, "append", half_an_append),
        ("lines of the journal", journal, "append_rows", half_an_append),
        ("the model's files", CausalLM, "save", weights_alone),
        ("the trainer's state", torch, "save", half_a_file),
        ("sums", checkpoint, "_digest", None),
        ("syncing", checkpoint, "_to_disk", None),
        ("renaming", Path, "rename", None),
        ("replacing", Path, "replace", None),
        ("removing", shutil, "rmtree", half_a_folder),
        ("settings", folder, "write_settings", None),
    ]


def watch(kill):
    """Count the calls of every place, and die at the one that is asked for: in its middle, before it or after it."""
    place, number, fraction = kill or (None, 0, 0.0)

    def watched(name, function, leave_half):
        def call(*args, **rest):
            counts[name] += 1
            dies = (name, counts[name]) == (place, number)
            if dies and leave_half is not None:
                leave_half(fraction, *args, **rest)
            if dies and (leave_half is not None or fraction < 0.5):
                die()
            result = function(*args, **rest)
            if dies:
                die()
            return result

        return call

    for name, owner, attribute, leave_half in places():
        setattr(owner, attribute, watched(name, getattr(owner, attribute), leave_half))
    if place == "clock":
        threading.Timer(number, die).start()


def train(job):
    import torch

    torch.set_num_threads(1)
    config = hone.load_config(Path(job["folder"], "config.yaml") if job["resume"] else job["config"])
    config.folder = job["folder"]
    watch(job["kill"])
    hone.Trainer(config).fit(resume=job["resume"])


def run(job):
    """Fork, train there, and tell how it ended."""
    log, told = Path(f"{job['folder']}.log"), Path(f"{job['folder']}.counts")
    told.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.fork()
    if not child:
        status = 1
        try:
            sys.stdin.close()
            for stream in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            train(job)
            told.write_text(json.dumps(counts))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    counted = json.loads(told.read_text()) if told.exists() else {}
    return {"status": status, "seconds": time.monotonic() - began, "counts": counted, "log": log.read_text()[-3000:]}


def main():
    import torch  # noqa: F401
    import transformers

    from hone.config import load_config  # noqa: F401
    from hone.trainer import Trainer  # noqa: F401

    transformers.utils.logging.disable_progress_bar()
    places()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
