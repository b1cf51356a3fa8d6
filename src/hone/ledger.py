"""The folder of an evaluation: of which settings and weights it is, so that a second start goes on with these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hone.build import describe, describe_settings
from hone.candidates import Candidate
from hone.config import Config, load_config
from hone.folder import write_settings
from hone.origin import changed

ELSEWHERE = "give another --output"
SHOWN = 12
"""Settings that differ of which a refusal tells."""


def claim(folder: Path, config: Config) -> None:
    """Make the folder, or go on in it, with further variants too.

    Raises:
        FileExistsError: It holds something else.
        ValueError: It holds an evaluation with other settings.
    """
    written = folder / "config.yaml"
    if written.exists():
        if (folder / "metrics.jsonl").exists():
            raise FileExistsError(f"{folder} is the folder of a training run; {ELSEWHERE}")
        if _further_variants(written, config):
            write_settings(folder, config.dump())
        return
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else; {ELSEWHERE}")
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, config.dump())


def _further_variants(written: Path, config: Config) -> bool:
    """Whether there are some that have no answers yet; one that is left out is refused, for its answers are there."""
    before, now = _settings(load_config(written)), _settings(config)
    known = {name: value for name, value in now.items() if name in before or not name.startswith("variants.")}
    told = [f"  {line}" for _, line in changed(before, known)]
    if told:
        more = [f"  and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
        head = f"{written.parent} holds an evaluation with other settings; go back to them, or {ELSEWHERE}:"
        raise ValueError("\n".join([head, *told[:SHOWN], *more]))
    return known != now


def _settings(config: Config) -> dict[str, Any]:
    """Every setting that the answers or the verdicts depend on."""
    parts: dict[str, Any] = {"model": describe(config.model), "sampler": next(iter(_named(describe(config.sampler))))}
    for name, part in config.eval.items():
        spec = describe_settings(part)
        spec["verifier"] = describe(part.verifier or config.verifier)
        spec["environment"] = describe(part.environment or config.environment)
        parts[f"eval.{name}"] = {key: value for key, value in spec.items() if key != "every"}
    if processors := getattr(config.sampler, "processors", None):
        parts["sampler.processors"] = [describe(processor) for processor in processors]
    for name, variant in config.every_variant().items():
        if name:
            parts[f"variants.{name}"] = {k: v for k, v in _settings(variant).items() if v != parts.get(k)}
    return parts


def _named(spec: Any) -> Mapping[str, Any]:
    return spec if isinstance(spec, Mapping) else {spec: {}}


def identify(folder: Path, candidate: Candidate, weights: str | None) -> None:
    """Remember what lies behind a label.

    Raises:
        ValueError: It was another checkpoint, or has other weights now.
    """
    path = folder / "checkpoints.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    own = {"path": candidate.path and str(candidate.path.resolve()), "weights": weights}
    before = known.get(candidate.label)
    if before is None:
        write_whole(path, json.dumps({**known, candidate.label: own}, indent=2) + "\n")
        return
    if before["path"] != own["path"]:
        raise ValueError(f"{folder}: {candidate.label} was {before['path']}, and is {own['path']} now; {ELSEWHERE}")
    if weights not in (None, before["weights"]):
        raise ValueError(f"{folder}: the weights of {candidate.label} have changed since; {ELSEWHERE}")


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
