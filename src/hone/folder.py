"""The folder of a run, claimed by the run that writes to it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hone import checkpoint, ranks
from hone.report.lines import JsonLines

log = logging.getLogger("hone")

OWN = ("metrics.jsonl", "config.yaml", "rollouts.jsonl", "evals", "tensorboard")
"""What a run that has not made a step may have left in its folder."""


@contextmanager
def claimed(config: Any, *, resume: bool) -> Iterator[Path]:
    """The folder of a run, which the first of its processes claims; see :func:`_claimed`."""
    with ExitStack() as closing:
        yield ranks.first(lambda: closing.enter_context(_claimed(config, resume)))


@contextmanager
def desk(folder: Path) -> Iterator[Path]:
    """Where the hooks of this process write: the first one's to the folder, those of others to what is then dropped."""
    if not ranks.index():
        yield folder
        return
    with TemporaryDirectory(prefix="hone-") as aside:
        yield Path(aside)


@contextmanager
def _claimed(config: Any, resume: bool) -> Iterator[Path]:
    """The folder of a configuration's run, with no other run in it, and no other process writing to it.

    What failed before its first step was no run, though it may have been evaluated: what it left is removed, and
    another may start in the same folder. One that was killed before it had a checkpoint can be resumed: it begins anew.

    Raises:
        FileExistsError: If the folder holds another run, or another process writes to it.
        FileNotFoundError: If there is nothing to resume.
        OSError: If the disk is full: with the folder, what is free, and where the run can go on.
    """
    before = {name for name in OWN if (config.run_folder() / name).exists()}
    with ExitStack() as closing:
        folder = _claim(config, resume, closing)
        try:
            yield folder
        except BaseException as error:
            if checkpoint.latest(folder) is None and not any(row["step"] for row in JsonLines(folder / OWN[0])):
                for name in set(OWN) - before:
                    _remove(folder / name)
                with suppress(OSError):
                    folder.rmdir()  # if there is nothing else in it
            if number := _cannot_write(error):
                raise OSError(number, _full(folder, number)) from error
            raise


def _claim(config: Any, resume: bool, closing: ExitStack) -> Path:
    folder = config.run_folder()
    claim, settings = folder / "metrics.jsonl", folder / "config.yaml"
    if resume and checkpoint.latest(folder) is None and not (claim.exists() and settings.exists()):
        raise FileNotFoundError(f"there is no checkpoint to resume from in {folder / 'checkpoints'}")
    if not resume and settings.exists() and not claim.exists():
        raise FileExistsError(f"{settings} would be overwritten; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    alone = closing.enter_context(_locked(folder))
    dead = claim.exists() and not claim.stat().st_size and not settings.exists()  # killed as soon as it had begun
    if alone and (resume or dead or not claim.exists()):
        claim.touch()
        return folder
    if config.folder is None and not resume:
        return _claim(config, resume, closing)  # another run was faster; there is a next name
    if not alone:
        raise FileExistsError(f"{folder}: another process is writing to this run")
    raise FileExistsError(f"{folder} holds a run; resume it, or give another folder")


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether no other process has this lock on the folder; the system takes it from one that dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            log.debug("%s is on a file system without locks", folder)
        yield alone
    finally:
        os.close(descriptor)


def write_settings(folder: Path, text: str) -> None:
    """Write ``config.yaml``, whole or not at all; the first process does."""
    if ranks.index():
        return
    scratch = folder / ".config.yaml.partial"
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(folder / "config.yaml")


def _cannot_write(error: BaseException | None) -> int | None:
    """The number of the system's error if one that no other try would mend is at the bottom of this."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):  # safetensors has its own
            number = int(told[1])
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return number
        error = error.__cause__ or error.__context__
    return None


def _full(folder: Path, number: int) -> str:
    there = next(above for above in (folder, *folder.parents) if above.exists())
    kept = checkpoint.latest(folder)
    goes_on = f"hone resume goes on from {kept}" if kept else "there is no checkpoint yet"
    free = shutil.disk_usage(there).free / 2**20
    return f"{os.strerror(number)}: nothing more can be written to {folder} ({free:.0f} MiB are free there); {goes_on}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
