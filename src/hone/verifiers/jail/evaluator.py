"""A task's tests, run in the supervisor against a program that is in another process.

The tests see ordinary values where the program returns plain data, and a :class:`Remote` where it returns anything
else. No operator of a Remote is the program's own: it has no order and no arithmetic, and to compare it is an error, so
an object that claims to equal everything, or is the same one each time, gains nothing. Its methods are the
program's: ``assert f(x).count(1) == 2`` believes an object that ``f`` returns in the place of a list. Arguments are
passed by value: what a function does to a list in place is not seen.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable

from .wire import Broken, decode, encode, receive, send

_PREDICATES = {
    name
    for kind in (str, bytes, float, frozenset)
    for name in dir(kind)
    if name.startswith("is") or name in {"startswith", "endswith"}
}
"""Methods of plain data that say yes or no."""


class Expired(BaseException):
    """The time is over: no exception that a test may catch by accident."""


class Program:
    """The program in the other process: asked one question at a time."""

    def __init__(self, answers: int, questions: int):
        self._answers, self._questions = answers, questions
        self._known: dict[int, Remote] = {}

    def loaded(self) -> bool:
        """Wait for the program; whether it could be loaded."""
        try:
            self._result(receive(self._answers))
        except Exception:
            return False
        return True

    def name(self, name: str) -> object:
        """What the program calls by a name of its own.

        Raises:
            AttributeError: It has none such.
        """
        return self.ask("get", of=0, name=name)

    def ask(self, what: str, **question: object) -> object:
        """Ask, and raise what the answer says was raised."""
        send(self._questions, {"do": what, **question})
        return self._result(receive(self._answers))

    def out(self, value: object) -> object:
        """A value of the tests, as it passes to the program."""
        return encode(value, _number)

    def _result(self, answer: object) -> object:
        if not isinstance(answer, dict):
            raise Broken("no answer")
        if "raised" in answer:
            kind = getattr(builtins, str(answer["raised"]), None)
            usual = isinstance(kind, type) and issubclass(kind, Exception)
            try:
                raised = kind(answer.get("text")) if usual else RuntimeError(f"the program raised {answer['raised']}")
            except TypeError:  # UnicodeDecodeError and its like take more than a text
                raised = ValueError(answer.get("text"))
            raise raised
        return decode(answer.get("value"), self._remote)

    def _remote(self, number: int) -> Remote:
        if type(number) is not int:
            raise ValueError("no number")
        return self._known.setdefault(number, Remote(self, number))


class Remote:
    """Something of the program's that is no plain data: a function, a class, an object, an iterator."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> object:
        if name in _PREDICATES:  # a str that is none could say yes to all of them
            raise AttributeError(f"the program returned an object of its own where {name!r} is asked")
        return self._program.ask("get", of=self._number, name=name)

    def __setattr__(self, name: str, value: object) -> None:
        self._program.ask("set", of=self._number, name=name, value=self._program.out(value))

    def __eq__(self, other: object) -> bool:
        raise TypeError("the program returned an object of its own, which is compared with nothing")

    __ne__ = __eq__

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it, where it is."""
        given = {name: self._program.out(arg) for name, arg in kwargs.items()}
        return self._program.ask("call", of=self._number, args=[self._program.out(arg) for arg in args], kwargs=given)

    def __getitem__(self, key: object) -> object:
        return self._program.ask("item", of=self._number, key=self._program.out(key))

    def __len__(self) -> int:
        return self._program.ask("special", of=self._number, name="len")

    def __bool__(self) -> bool:
        return self._program.ask("special", of=self._number, name="bool")

    def __str__(self) -> str:
        return self._program.ask("special", of=self._number, name="str")

    def __iter__(self) -> Iterable[object]:
        return iter_over(self._program.ask("special", of=self._number, name="iter"))

    def __next__(self) -> object:
        return self._program.ask("special", of=self._number, name="next")


def iter_over(iterator: object) -> Iterable[object]:
    """Iterate over a remote iterator: StopIteration ends it, as it comes."""
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item


class Names(dict):
    """The tests' globals: what they do not define themselves is Python's, a standard module's, or the program's.

    In this order, so that a program cannot put its own ``set`` or ``math`` in the place of the tests'. A name of
    ``taken`` is the program's in any case.
    """

    def __init__(self, program: Program, taken: Iterable[str]):
        super().__init__(__name__="tests", __builtins__=builtins)
        self._program, self._taken = program, set(taken)

    def __missing__(self, name: str) -> object:
        if name not in self._taken:
            if hasattr(builtins, name):
                raise KeyError(name)
            if name in sys.stdlib_module_names:
                return __import__(name)
        try:
            return self._program.name(name)
        except AttributeError:
            raise KeyError(name) from None


def evaluate(program: Program, setup: str, tests: list[str], taken: list[str]) -> Iterable[bool]:
    """Run the setup, then each test; whether it came to its end. A setup that does not is a failure of all of them."""
    names = Names(program, taken)
    if "random" in setup + "".join(tests):
        __import__("random").seed(0)  # the same verdict each time
    ready = _passes(setup, names)
    for name in taken:
        names.pop(name, None)
    for test in tests:
        yield ready and _passes(test, names)


def _passes(source: str, names: Names) -> bool:
    try:
        exec(compile(source, "tests.py", "exec", dont_inherit=True), names)
    except Expired:
        raise
    except BaseException:
        return False
    return True


def _number(value: object) -> int:
    if isinstance(value, Remote):
        return object.__getattribute__(value, "_number")
    raise TypeError(f"a test passes a {type(value).__name__} to the program, and only plain data and the program's own")
