"""The candidate's process: the model's program, run as a script or kept as a module whose functions are called.

Whatever the program does to this file's objects (it can reach them all) changes only what it answers.
"""

from __future__ import annotations

import os
import sys
import types

from .wire import Broken, decode, encode, receive, send


def run_script(source: str) -> None:
    """Run a program as ``python program.py`` would, and end the process with its exit status."""
    status = 0
    try:
        exec(compile(source, "program.py", "exec"), _module("__main__").__dict__)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        status = 1
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        if "atexit" in sys.modules:
            sys.modules["atexit"]._run_exitfuncs()
        sys.stdout.flush()
    except BaseException:
        status = status or 1
    os._exit(status & 255)


def serve(source: str, questions: int, answers: int) -> None:
    """Load a program as a module, then answer what the supervisor asks of it, to the end of the process."""
    server = _Server()
    try:
        module = _module("candidate")
        exec(compile(source, "program.py", "exec"), module.__dict__)
        server.things.append(module)
        answer: dict[str, object] = {"value": None}
    except BaseException as error:
        answer = _raised(error)
    try:
        send(answers, answer)
        while True:
            send(answers, server.answer(receive(questions)))
    except Broken:
        os._exit(0)


class _Server:
    """Things that the supervisor knows by number; 0 is the program's module."""

    def __init__(self):
        self.things: list[object] = []

    def answer(self, request: dict[str, object]) -> dict[str, object]:
        try:
            return getattr(self, f"_{request['do']}")(**{k: v for k, v in request.items() if k != "do"})
        except BaseException as error:
            return _raised(error)

    def _get(self, of: int, name: str) -> dict[str, object]:
        return {"value": self._out(getattr(self.things[of], name))}

    def _set(self, of: int, name: str, value: object) -> dict[str, object]:
        setattr(self.things[of], name, self._in(value))
        return {"value": None}

    def _call(self, of: int, args: list[object], kwargs: dict[str, object]) -> dict[str, object]:
        given = {name: self._in(arg) for name, arg in kwargs.items()}
        return {"value": self._out(self.things[of](*map(self._in, args), **given))}

    def _special(self, of: int, name: str) -> dict[str, object]:
        """What len(), str(), iter(), next() and bool() give."""
        ways = {"len": len, "str": str, "iter": iter, "next": next, "bool": bool}
        return {"value": self._out(ways[name](self.things[of]))}

    def _item(self, of: int, key: object) -> dict[str, object]:
        return {"value": self._out(self.things[of][self._in(key)])}

    def _out(self, value: object) -> object:
        return encode(value, self._refer)

    def _in(self, data: object) -> object:
        return decode(data, self.things.__getitem__)

    def _refer(self, thing: object) -> int:
        for i, known in enumerate(self.things):
            if known is thing:
                return i
        self.things.append(thing)
        return len(self.things) - 1


def _module(name: str) -> types.ModuleType:
    sys.argv = ["program.py"]
    module = sys.modules[name] = types.ModuleType(name)
    return module


def _raised(error: BaseException) -> dict[str, object]:
    """The name of what was raised: the nearest type that Python itself has."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    return {"raised": kinds[0], "text": text}
