"""The checkpoints that an evaluation compares: found on disk, and as policies that can be loaded."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hone import checkpoint, document, ranks
from hone.build import build, describe
from hone.config import Config
from hone.policies.weights import locate
from hone.registry import ConfigError
from hone.seats import Policy
from hone.session import Session

log = logging.getLogger("hone")

BASE = "base"
_EXPORTED = ("config.json", "adapter_config.json")


@dataclass
class Candidate:
    """A policy to evaluate.

    Attributes:
        label: What it is called in files, tables and pictures.
        path: Where it comes from; None for the model of the configuration.
        spec: Of the policy: what :func:`hone.build.build` takes, or an object.
        trained: A trainer's state whose weights are to be taken over once the policy is loaded.
        variant: In which way of the configuration it answers; "" for the configuration as it is.
    """

    label: str
    path: Path | None
    spec: Any
    trained: Path | None = None
    variant: str = ""

    def policy(self) -> Policy:
        """The policy, not loaded."""
        return build("policy", self.spec) if isinstance(self.spec, str | dict) else self.spec

    def take_over(self, session: Session) -> None:
        """Put the checkpoint's weights into the policy that the session has loaded."""
        if self.trained is None:
            return
        saved = checkpoint.load(self.trained)
        try:
            session.policy.load_state_dict(saved["policy"])
        except (KeyError, RuntimeError, ValueError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{self.trained}: does not fit the model of its run's config.yaml: {why}") from error
        session.policy.version = saved["version"]
        session.sampler.sync(session.policy)


def find(config: Config, paths: Sequence[str | Path], *, base: bool) -> list[Candidate]:
    """The candidates in the order that is asked for, the base model first, and each in every variant.

    A path may be a run's folder (its newest checkpoint), one of its checkpoints, or a saved model. The checkpoint of a
    run is loaded as a resume would, from the model of the run and the trained weights: adapters are not merged, and it
    is the policy that was trained. It computes in the ``dtype`` of the configuration's model.

    Raises:
        FileNotFoundError: There is nothing at a path that could be loaded.
        ValueError: The same checkpoint is given twice, or there is nothing to evaluate.
    """
    found = [Candidate(BASE, None, _fresh(config.model))] if base else []
    for path in paths:
        found.append(_candidate(config, Path(path).expanduser()))
    if not found:
        raise ValueError("there is nothing to evaluate: give a checkpoint, or leave --no-base out")
    where = Counter(candidate.path and candidate.path.resolve() for candidate in found)
    for path, times in where.items():
        if times > 1:
            raise ValueError(f"the checkpoint {path} is given {times} times")
    _tell_apart(found)
    return [_varied(candidate, name) for candidate in found for name in config.every_variant()]


def refuse_other_tokenizers(config: Config, candidates: Sequence[Candidate]) -> None:
    """Compare the tokenizers of all candidates with that of the first.

    Raises:
        ValueError: One has another vocabulary: the same noise would draw other words, and lengths would not compare.
    """
    first, *others = [(c.label, _tokenizer(c, config)) for c in candidates]
    for label, tokenizer in others:
        if tokenizer is None or first[1] is None:
            continue
        own, known = tokenizer.get_vocab(), first[1].get_vocab()
        if own != known:
            other = sum(known.get(token) != i for token, i in own.items())
            raise ValueError(
                f"{label}: its tokenizer is not that of {first[0]}: {len(own)} tokens against {len(known)}, {other} of "
                "them with another number or not there; evaluate it apart from the others, with --no-base"
            )
        if tokenizer.chat_template != first[1].chat_template:
            log.warning("%s has another chat template than %s: the two read different prompts", label, first[0])


def _varied(candidate: Candidate, variant: str) -> Candidate:
    return replace(candidate, label=f"{candidate.label}/{variant}", variant=variant) if variant else candidate


def _fresh(model: Policy) -> Any:
    """The spec of a policy, so that each candidate is an object of its own; an object that has none is used itself."""
    spec = describe(model)
    try:
        return spec if build("policy", spec) == model else model
    except ConfigError:
        return model


def _candidate(config: Config, path: Path) -> Candidate:
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no checkpoint {str(path)!r}; give the folder of a run, of a checkpoint, or of a saved model"
        )
    if (path / "metrics.jsonl").is_file() or (path / "checkpoints").is_dir():
        newest = checkpoint.latest(path)
        if newest is None:
            raise FileNotFoundError(f"the run {path} has no checkpoint in {path / 'checkpoints'}")
        path = newest
    if (path / checkpoint.SUMS).is_file() and (wrong := ranks.first(lambda: checkpoint.damage(path))):
        raise ValueError(f"the checkpoint {path} is damaged: {wrong}; give another")
    if (path / checkpoint.STATE).is_file() and (path.parents[1] / "config.yaml").is_file():
        return Candidate(f"{path.resolve().parents[1].name}/{path.name}", path, _of_run(config, path), trained=path)
    if not any((path / name).is_file() for name in _EXPORTED):
        raise FileNotFoundError(
            f"{path} holds no checkpoint: neither {checkpoint.STATE} of a run, nor a saved model's {_EXPORTED[0]}"
        )
    if not hasattr(config.model, "path"):
        raise ValueError(f"{path}: a {type(config.model).__name__} does not say how to load a saved model (no 'path')")
    settings = {name: None for name in ("lora", "random_weights") if hasattr(config.model, name)}
    return Candidate(path.resolve().name, path, describe(replace(config.model, path=str(path), **settings)))


def _of_run(config: Config, path: Path) -> Any:
    """The model of the run, which computes as that of the configuration does."""
    written = path.parents[1] / "config.yaml"
    spec = document.read_mapping(written).get("model")
    if spec is None:
        raise ValueError(f"{written}: has no model")
    policy = build("policy", spec)
    if type(policy) is type(config.model) and hasattr(policy, "dtype"):
        policy = replace(policy, dtype=config.model.dtype)
    return describe(policy)


def _tell_apart(found: Sequence[Candidate]) -> None:
    """Give those of one label further parts of their paths."""
    depth = 2
    while clashing := {label for label, times in Counter(c.label for c in found).items() if times > 1}:
        for candidate in found:
            if candidate.label in clashing and candidate.path is not None:
                parts = candidate.path.resolve().parts
                candidate.label = "/".join(parts[-min(depth, len(parts) - 1) :])
        depth += 1


def _tokenizer(candidate: Candidate, config: Config) -> Any:
    """The tokenizer, without the weights; None for a policy that is not known to have one."""
    where = candidate.path or getattr(config.model, "path", None)
    if where is None or not hasattr(config.model, "path"):
        return None
    from transformers import AutoTokenizer

    try:
        folder = locate(str(where)) if candidate.path is None else str(where.resolve())
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever transformers makes of files that are not there
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: its tokenizer cannot be loaded: {why}") from error
