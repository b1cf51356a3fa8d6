"""Keyed randomness: every draw is named, none is sequential.

A draw depends on its key alone (run seed, round, task, sibling, position), so it does not change with what else was
in the batch, with the number of processes, or with a resume.
"""

from __future__ import annotations

import hashlib


def key(*parts: int | str) -> int:
    """Hash the parts into a 63-bit key; stable across runs, hosts and Python versions."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
