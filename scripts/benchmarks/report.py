"""What a command leaves: a table on the terminal and in Markdown, the raw figures in JSON, and a picture."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine import Engine, EngineError

GIB = 2**30


@dataclass
class Table:
    """Rows of texts under the names of their columns."""

    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """As BENCHMARKS.md has it."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


@dataclass
class Report:
    """One run of a command.

    Attributes:
        name: Of the command; the files are called after it.
        settings: Its arguments.
        machine: What it ran on.
        tables: With what is said before each.
        turns: Every turn of every engine, as it was answered.
        notes: What a reader must know beside the tables.
    """

    name: str
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, Table]] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, folder: Path, draw: Callable[[Any], None] | None = None) -> None:
        """Print the tables, and write ``<name>.md``, ``<name>.json`` and, where there is one, ``<name>.png``."""
        gpu = self.machine.get("gpu") or "no GPU: nothing here was run on one"
        known = [f"{key} {value}" for key, value in self.machine.items() if value is not None and key != "gpu"]
        parts = [f"`python scripts/benchmark.py {command(self.settings['typed'])}`", f"{', '.join(known)}; {gpu}."]
        parts += [part for title, table in self.tables for part in (title, table.markdown()) if part]
        text = "\n\n".join([*parts, *self.notes])
        print(text)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.md").write_text(text + "\n", encoding="utf-8")
        raw = {key: getattr(self, key) for key in ("name", "settings", "machine", "turns", "notes")}
        raw["tables"] = [{"title": t, "columns": list(table.columns), "rows": table.rows} for t, table in self.tables]
        (folder / f"{self.name}.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
        if draw is not None and self.turns:
            import matplotlib

            matplotlib.use("Agg")
            draw(folder / f"{self.name}.png")


@dataclass
class Contest:
    """Engines that take turns; one that fails drops out, with its reason in the notes of the report.

    Attributes:
        engines: By the name of who takes part, in the order of their turns.
        labels: Go into the record of each turn.
    """

    engines: dict[str, Engine]
    report: Report
    labels: dict[str, Any]

    def __enter__(self) -> Contest:
        self._closing = ExitStack()
        with ThreadPoolExecutor() as pool:
            started = {
                name: pool.submit(self._closing.enter_context(engine).start) for name, engine in self.engines.items()
            }
        for name, loaded in started.items():
            self._try(name, loaded.result)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def round(self, number: int, requests: dict[str, dict[str, Any]]) -> None:
        """A turn of everybody who is still there and is asked something; number 0 warms up and is not recorded."""
        for name, request in requests.items():
            if name not in self.engines:
                continue
            reply = self._try(name, lambda n=name, r=request: self.engines[n].turn(**r))
            if reply is not None:
                self._tell(number, name, reply)
                if number:
                    self.report.turns.append({"engine": name, "round": number, **self.labels, **reply})

    def _tell(self, number: int, name: str, reply: dict[str, Any]) -> None:
        where = ", ".join(map(str, self.labels.values()))
        spent = f"{reply['seconds']:.2f} s" if "seconds" in reply else "measured"
        print(f"{where}, round {number or 'to warm up'}: {name} {spent}", file=sys.stderr, flush=True)

    def _try(self, name: str, act: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        try:
            reply = act()
        except EngineError as error:
            del self.engines[name]
            note = f"{name} did not run ({', '.join(map(str, self.labels.values()))}): {error}"
            print(note, file=sys.stderr, flush=True)
            self.report.notes.append(note)
            return None
        self.report.machine |= reply.pop("machine", {})
        if version := reply.pop("version", None):
            self.report.machine[name] = version
        return reply


def command(typed: Sequence[str]) -> str:
    """The arguments as they can be shown: without the output's folder, and interpreters as PATH."""
    shown = list(typed)
    for i, word in enumerate(typed[:-1]):
        if word.endswith("-python"):
            shown[i + 1] = "PATH"
    if "--output" in shown:
        at = shown.index("--output")
        del shown[at : at + 2]
    return shlex.join(shown)


def memory(turns: Sequence[dict[str, Any]]) -> str:
    """The peak over turns: of the device where there is one, else of the process, and with its children."""
    if turns[-1].get("device_peak") is not None:
        return f"{max(t['device_peak'] for t in turns) / GIB:.2f} GiB of the device"
    own, everything = (max(t[key] for t in turns) / GIB for key in ("peak", "peak_all"))
    return f"{own:.2f} GiB" + (f" ({everything:.2f} with its processes)" if everything > 1.01 * own else "")
