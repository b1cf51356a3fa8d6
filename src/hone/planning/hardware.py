"""What a device can do: the table that is shipped, or one of the user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from hone.seats import settings

TABLE = Path(__file__).parent / "hardware.yaml"
Share = Annotated[float, Field(gt=0, le=1)]
NATIVE = 1.25
"""By how much bfloat16 must be faster than float32 for ``dtype: auto`` to take it: see ``policies/precision.py``."""


@settings
class Achieved:
    """Shares of the peaks that hone's phases reach.

    Attributes:
        products: Large matrix products.
        narrow: Those of a decode step, which has few rows.
        bandwidth: Reading weights and cache in a decode step.
        elementwise: Passes over activations and logits between the products.
    """

    products: Share
    narrow: Share
    bandwidth: Share
    elementwise: Share


@settings
class Hardware:
    """One kind of device.

    Attributes:
        title: What it is.
        memory: Bytes.
        flops: FLOP/s by the name of a type.
        bandwidth: Of its memory, bytes/s.
        achieved: Of these.
        layer: Seconds that a layer costs in a pass beyond its arithmetic.
        slack: What allocators take beside activations, as a share of these.
        reserve: Bytes that are taken before anything of a run is there.
        interconnect: Bytes/s from a device to others.
        price: US dollars an hour.
        gpu: Whether attention is flex_attention's.
    """

    title: str
    memory: float = Field(gt=0)
    flops: dict[str, Annotated[float, Field(gt=0)]]
    bandwidth: float = Field(gt=0)
    achieved: Achieved
    layer: float = Field(ge=0)
    slack: float = Field(0.0, ge=0)
    reserve: float = Field(ge=0)
    interconnect: float = Field(gt=0)
    price: float | None = Field(None, ge=0)
    gpu: bool = True

    def dtype(self, asked: str) -> str:
        """The type in which a model computes here that asks for this one."""
        if asked != "auto":
            return asked
        return "bfloat16" if self.flops["bfloat16"] > NATIVE * self.flops["float32"] else "float32"


def shipped() -> dict[str, Hardware]:
    """The whole table."""
    table = _read(TABLE)
    return {name: _entry(table, name, TABLE) for name in table}


def at_hand(device: str) -> str:
    """The name of the device that a run would take here, for ``device`` as in its configuration.

    Raises:
        ValueError: If it is a GPU that the table does not have.
    """
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    known = _read(TABLE)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else device
    plain = name.lower().replace(" ", "")
    found = next((entry for entry in known if entry.partition("-")[0] in plain), None)
    if found is None:
        raise ValueError(f"device: {name} is not in the table; give --hardware, one of {', '.join(known)}, or a file")
    return found


def here(gear: Hardware) -> float:
    """Bytes of memory that the device at hand has, of whatever kind its entry is."""
    if gear.gpu:
        import torch

        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def load(chosen: str) -> Hardware:
    """An entry of the shipped table by its name, or of a file of one's own: ``FILE``, or ``FILE:NAME``.

    Raises:
        ValueError: If there is no such entry, or something is wrong with it.
    """
    shipped = _read(TABLE)
    if chosen in shipped:
        return _entry(shipped, chosen, TABLE)
    path, _, name = chosen.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"--hardware {chosen}: is no file, and none of {', '.join(shipped)}")
    table = _read(Path(path))
    if not name and len(table) != 1:
        raise ValueError(f"--hardware {chosen}: holds several; say which: {path}:{next(iter(table), 'NAME')}")
    return _entry(table, name or next(iter(table)), Path(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--hardware {path}: is not YAML: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"--hardware {path}: should hold a mapping of names to devices")
    return table


def _entry(table: dict[str, Any], name: str, path: Path) -> Hardware:
    if name not in table:
        raise ValueError(f"--hardware {path}: there is no {name!r}, only {', '.join(map(str, table))}")
    try:
        made = Hardware(**table[name])
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else [{"loc": (), "msg": str(error)}]
        told = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
        raise ValueError(f"--hardware {path}: {name}: {told}") from None
    if missing := {"bfloat16", "float32"} - made.flops.keys():
        raise ValueError(f"--hardware {path}: {name}: flops: lacks {', '.join(sorted(missing))}")
    return made
