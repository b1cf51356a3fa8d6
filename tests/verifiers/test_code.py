import asyncio
import os
import secrets
import time

import pytest
from code_rows import HUMANEVAL, MBPP
from hypothesis import given
from hypothesis import strategies as st
from test_sandbox import MISSING, calling_itself, gone, named

from hone.types import Segment, Task, Trajectory
from hone.verifiers.code import CodeVerifier, same_output
from hone.verifiers.pool import VerifierPool
from hone.verifiers.programs import Cases, Unit, blocks, program, read_tests
from hone.verifiers.sandbox import SandboxError

isolated = pytest.mark.skipif(bool(MISSING), reason=str(MISSING))


def humaneval(row):
    return Task(row["task_id"], [], row["canonical_solution"], {k: row[k] for k in ("prompt", "entry_point", "test")})


def mbpp(row):
    return Task(str(row["task_id"]), [], row["code"], {k: row[k] for k in ("test_list", "test_setup_code")})


def unit(*tests, setup="", **meta):
    return Task("t", [], None, {"test_list": list(tests), "test_setup_code": setup, **meta})


def cases(*pairs, **meta):
    return Task("t", [], None, {"tests": [{"input": i, "output": o} for i, o in pairs], **meta})


def answered(task, text):
    return Trajectory(task, [Segment("response", "policy", (), text=text)])


def judged(task, source, **settings):
    score = CodeVerifier(**settings)(task, answered(task, f"```python\n{source}\n```"))
    return score.value


GCD, CYCLIC = map(humaneval, HUMANEVAL)
ROWS = [GCD, CYCLIC, *map(mbpp, MBPP)]
SUM = unit("assert f(1, 2) == 3", "assert f(2, 5) == 7", "assert f(4, 4) == 8")
ECHO = cases(("1 2\n", "3\n"), ("4 5\n", "9\n"))


@isolated
class TestData:
    @pytest.mark.parametrize("task", ROWS, ids=lambda task: task.id)
    def test_canonical_solutions_are_right_and_stubs_are_not(self, task):
        verifier = CodeVerifier()
        assert verifier(task, answered(task, verifier.example(task))).value == 1
        for name in ("min_cost", "similar_elements", "sum", "max_height", "decode_cyclic", "greatest_common_divisor"):
            assert judged(task, f"def {name}(*_):\n    return None") == 0

    def test_completions(self):
        for verifier in (CodeVerifier(form="completion"), CodeVerifier()):
            assert verifier(GCD, answered(GCD, GCD.answer)).value == 1
            assert verifier(GCD, answered(GCD, "    return 1\n")).value == 0
        assert CodeVerifier(form="completion").example(GCD) == GCD.answer
        assert CodeVerifier(form="program")(GCD, answered(GCD, GCD.answer)).value == 0

    def test_a_function_alone_has_the_helpers_and_imports_of_the_prompt(self):
        assert judged(CYCLIC, "def decode_cyclic(s):\n    return encode_cyclic(encode_cyclic(s))") == 1

    def test_the_tests_use_the_helpers_of_the_prompt_and_not_those_of_the_response(self):
        same = "def encode_cyclic(s):\n    return s\n\ndef decode_cyclic(s):\n    return s"
        assert judged(CYCLIC, same) == 0


@isolated
class TestHacks:
    """Programs that compute nothing, for the sum of two numbers."""

    CLAIMS = [
        "class Yes:\n    __eq__ = __bool__ = lambda *_: True\ndef f(*_): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(*_): return Yes()",
        "class Meta(type):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "class f(metaclass=Meta):\n    def __new__(cls, *_): return cls",
        "import unittest.mock\ndef f(*_): return unittest.mock.ANY",
        "import sys\ndef f(*_): sys.exit(0)",
        "import os\ndef f(*_): os._exit(0)",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(*_): raise SystemExit(0)",
        "import builtins\nbuiltins.AssertionError = type('E', (BaseException,), {})\nbuiltins.__build_class__ = None\n"
        "builtins.int = builtins.len = builtins.isinstance = lambda *_: True\ndef f(*_): return 1",
        "import sys\nsys.settrace(lambda *_: None)\nsys.excepthook = print\ndef f(*_): raise AssertionError",
        "def f(*_): raise StopIteration",
        "def f(*_): raise GeneratorExit",
        "def f(*_): return NotImplemented",
        "async def f(*_): return 3",
        "def f(*_): yield 3",
        "print('passed'); print('ok'); print('3 passed')\ndef f(*_): print('OK')",
        "import os\nfor fd in range(64):\n    try: os.write(fd, b'{\"loaded\": true, \"passed\": [true]}')\n"
        "    except OSError: pass\ndef f(*_): return None",
        "import json\nm = json.dumps({'loaded': True, 'passed': [True] * 3})\n"
        "m = b'\\0\\0\\0' + bytes([len(m)]) + m.encode()\n"
        "import os\nfor fd in range(64):\n    try: os.write(fd, m)\n    except OSError: pass\ndef f(*_): return None",
        "import signal, os\ndef f(*_): os.kill(os.getppid(), signal.SIGKILL)",
        "import time\ndef f(*_): time.sleep(60)",
        "while True: pass",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "def f(*_): return 'x' * 10 ** 9",
        "def f(*_): return float('nan')",
        "def f(*_): return f",
        "x = []\nx.append(x)\ndef f(*_): return x",
        "def f(*_): return f(*_)",
        "f = None",
        "f",
        "",
        "# f(1, 2) == 3",
        "assert True",
    ]  # fmt: skip

    @pytest.mark.parametrize("hack", CLAIMS)
    def test_claims_are_worth_nothing(self, hack):
        assert judged(SUM, hack, seconds=1.5, cpu_seconds=1, score="fraction") == 0
        assert judged(SUM, "def f(a, b): return a + b") == 1

    SEARCH = """
import gc, os, sys
NEEDLE = "N33" + "DLE"
def found():
    texts = set()
    def look(thing, depth=0):
        if isinstance(thing, str):
            if NEEDLE in thing and len(thing) < 99: texts.add(thing)
        elif depth < 3 and isinstance(thing, dict):
            for item in list(thing.items()): look(item, depth + 1)
        elif depth < 3 and isinstance(thing, (list, tuple, set)):
            for item in list(thing): look(item, depth + 1)
    for thing in gc.get_objects(): look(thing, 2)
    frame = sys._getframe()
    while frame:
        look(frame.f_locals, 1); look(frame.f_globals, 1); look(frame.f_code.co_consts); frame = frame.f_back
    for top in ("/tmp", "/etc", "/proc", "/home", "/run", "/var", "/work"):
        for folder, _, files in os.walk(top):
            for name in files:
                try: data = open(os.path.join(folder, name), errors="replace").read(10 ** 6)
                except OSError: continue
                if NEEDLE in data: texts.add(data[:90])
    return sorted(texts - {NEEDLE})
"""

    def test_what_is_expected_cannot_be_found(self):
        value = "N33" + "DLE" + secrets.token_hex(8)
        task = unit(f"assert f() == {value!r}", f"assert f() != {value!r}[:0]", "assert f() == 'none'")
        source = self.SEARCH + "def f(): return (found() or ['none'])[0]"
        assert judged(task, source, score="fraction") == pytest.approx(2 / 3)
        prints = "\nprint((found() or ['none'])[0])"
        score = judged(cases(("", value), ("", "none")), self.SEARCH + prints, score="fraction")
        assert score == 0.5

    def test_it_would_be_found_where_it_is(self):
        value = "N33" + "DLE" + secrets.token_hex(8)
        source = self.SEARCH + f"held = [{value!r}]\ndef f(): return found()[0]"
        assert judged(unit(f"assert f() == {value!r}"), source) == 1

    @pytest.mark.parametrize(
        ("test", "hack"),
        [
            ("assert math.isclose(f(1), 2.5)", "class math:\n    isclose = lambda *_: True\ndef f(*_): return 0"),
            ("assert set(f(1)) == {1, 2}", "def set(*_): return {1, 2}\ndef f(*_): return []"),
            ("assert sorted(f(1)) == [1]", "import builtins\nbuiltins.sorted = lambda *_: [1]\ndef f(*_): return []"),
            ("assert abs(f(1) - 2) < 1e-3", "class X(float):\n    __abs__ = __sub__ = lambda *_: X()\n"
             "    __lt__ = lambda *_: True\ndef f(*_): return X()"),
            ("assert abs(f(1) - 2) < 1e-3", "class X:\n    __abs__ = __sub__ = __rsub__ = lambda *_: X()\n"
             "    __lt__ = __gt__ = lambda *_: True\ndef f(*_): return X()"),
            ("assert f(1).startswith('a')", "class X:\n    startswith = lambda *_: True\ndef f(*_): return X()"),
            ("assert f(1).issubset({1}) and len(f(1)) == 1",
             "class X:\n    issubset = lambda *_: True\n    __len__ = lambda *_: 1\ndef f(*_): return X()"),
            ("assert 7 in f(1) and 8 not in f(1)",
             "class X:\n    __contains__ = lambda s, x: x == 7\ndef f(*_): return X()"),
            ("assert f(1) != 3 and f(1) != 4 and f(2) == 2", "class X:\n    __ne__ = __eq__ = lambda *_: True\n"
             "def f(*_): return X()"),
            ("assert Box(1) == f(1)", "class Box:\n    def __new__(cls, *_): return cls\ndef f(*_): return Box"),
            ("assert isinstance(f(1), int) and f(1) > 2",
             "class X:\n    __class__ = int\n    __gt__ = lambda *_: True\ndef f(*_): return X()"),
        ],
    )  # fmt: skip
    def test_the_tests_words_are_their_own(self, test, hack):
        assert judged(unit(test), hack) == 0

    def test_names_of_pythons_own(self):
        assert judged(unit("assert sum(10, 15) == 25"), "def sum(a, b): return a + b") == 1
        assert judged(unit("assert numbers(2) == [1, 2]"), "def numbers(n): return [*range(1, n + 1)]") == 1
        assert judged(unit("assert f(2) == sys.getsizeof(2)"), "import sys\ndef f(n): return sys.getsizeof(n)") == 1

    @pytest.mark.parametrize(
        "source",
        ["", "print(3)\nprint(9)", "print('3\\n9')", "import sys\nsys.exit(0)", "print(3, 9)",
         "print(open(0).read())",
         "a, b = map(int, input().split())\nprint(a + b)\nraise SystemExit(1)", "print(input())",
         "print('3' * 10 ** 7)",
         "import os\nos._exit(0)", "a, b = map(int, input().split())\nprint(a + b); print('the answer')"],
    )  # fmt: skip
    def test_printed_answers_are_read_whole(self, source):
        assert judged(ECHO, source) == 0

    def test_right_answers_are_printed_in_many_ways(self):
        for end in ("", "\nimport sys; sys.exit(0)", "\nimport os, sys; sys.stdout.flush(); os._exit(0)"):
            assert judged(ECHO, f"a, b = map(int, input().split())\nprint(a + b){end}") == 1
        assert judged(ECHO, "if __name__ == '__main__':\n    print(sum(map(int, open(0).read().split())))") == 1


class TestScores:
    GROUPED = cases(("0", "a"), ("1", "b"), ("2", "c"), ("3", "d"), ("4", "e"), groups=[2, 1, 1, 2, 7])

    @pytest.mark.parametrize(
        ("right", "settings", "value"),
        [
            ("abcde", {}, 1),
            ("abcd.", {}, 0),
            ("abcd.", {"score": "fraction"}, 0.8),
            ("abcde", {"score": "strict_groups"}, 1),
            (".bcd.", {"score": "strict_groups"}, 1 / 3),  # group 1 is whole; 2 is half; 7 is none
            ("a.cde", {"score": "strict_groups"}, 0),  # the easiest is not whole, so nothing counts
            ("abcd.", {"score": "strict_groups"}, 2 / 3),
            (".bcd.", {"score": "soft_groups"}, (1 + 0.5 + 0) / 3),
            ("a.cde", {"score": "soft_groups"}, (0.5 + 1 + 1) / 3),
            (".bcd.", {"score": "soft_groups", "weights": [1, 2, 5]}, (1 + 2 * 0.5) / 8),
            ("abcd.", {"score": "strict_groups", "weights": [1, 2, 5]}, 3 / 8),
        ],
    )
    @isolated
    def test_by_hand(self, right, settings, value):
        assert judged(self.GROUPED, f"print({right!r}[int(input())])", **settings) == pytest.approx(value)

    @pytest.mark.parametrize("groups", [None, [1], [1, 2, 3, 4, True], "12345", [1, 1, 1, 1, 1.0]])
    def test_groups_that_are_none(self, groups):
        task = cases(*[("", "")] * 5, groups=groups)
        with pytest.raises(ValueError, match=r"task 't': meta.groups is .* it should be a list of 5 whole numbers"):
            judged(task, "1", score="soft_groups")

    def test_weights(self):
        with pytest.raises(ValueError, match="3 groups of tests, and 2 weights"):
            judged(self.GROUPED, "1", score="soft_groups", weights=[1, 1])
        for weights in ([], [0, 0], [-1, 2]):
            with pytest.raises(ValueError, match="weights"):
                CodeVerifier(weights=weights)

    @pytest.mark.parametrize(
        ("printed", "expected", "same"),
        [
            ("3", "3\n", True),
            ("\n3 \t4\r\n\n", "3 4", True),
            ("3\n4", "3 4", False),
            ("3 4", "3\n4", False),
            ("3\n\n4", "3\n4", False),
            ("3.0", "3", False),
            ("03", "3", False),
            ("3", "3.0", True),
            ("0.3333333", "0.33333333", True),
            ("0.3333", "0.33333333", False),
            ("1e-3", "0.001", True),
            ("nan", "1.0", False),
            ("inf", "1e999", False),
            ("٣.0", "3.0", False),
            ("1_0.0", "10.0", False),
            ("yes", "YES", False),
            ("", "", True),
            ("", "3", False),
        ],
    )
    def test_outputs(self, printed, expected, same):
        assert same_output(printed, expected) is same

    def test_tolerance(self):
        assert same_output("1.05", "1.0", tolerance=0.1)
        assert not same_output("1.0000001", "1.0", tolerance=0)

    WORDS = st.lists(
        st.lists(st.text("abc.12", min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=3
    )

    @given(WORDS, WORDS)
    def test_outputs_of_words(self, lines, others):
        expected = "\n".join(map(" ".join, lines))
        assert same_output("\n\n" + " \r\n".join(map("\t ".join, lines)) + "\n ", expected)
        if [*map(len, lines)] != [*map(len, others)]:
            assert not same_output("\n".join(map(" ".join, others)), expected)


class TestTasks:
    @pytest.mark.parametrize(
        ("meta", "problem"),
        [
            ({}, "has no tests: its meta holds"),
            ({"test_list": None, "tests": None}, "has no tests"),
            ({"test_list": ["f()"], "tests": []}, "has several kinds of tests"),
            ({"test_list": []}, "meta.test_list is .* a list of texts, and not empty"),
            ({"test_list": "assert f()"}, "a list of texts"),
            ({"test_list": ["f()", None]}, "a list of texts"),
            ({"test_list": ["assert f("]}, r"meta.test_list\[0\] is no Python"),
            (
                {"test_list": ["assert True", "assert len([]) == 0 and 1"], "test_setup_code": 3},
                "meta.test_setup_code is 3",
            ),
            ({"test_list": ["assert True"]}, "meta.test_list calls nothing of the program's"),
            ({"test_list": ["f()"], "test_setup_code": "1 +"}, "meta.test_setup_code is no Python"),
            ({"test": "def check(f): pass"}, "meta.entry_point is None"),
            ({"test": "def check(f): pass", "entry_point": "f(", "prompt": ""}, "the name of a function"),
            ({"test": "def check(f:", "entry_point": "f"}, "meta.test is no Python"),
            ({"test": "assert f(1)", "entry_point": "f"}, "meta.test defines no function check"),
            ({"inputs": ["a"], "outputs": []}, "meta.outputs is"),
            ({"inputs": ["a"]}, "meta.outputs is None"),
            ({"inputs": ["a"], "outputs": ["a", "b"]}, "1 inputs and 2 outputs"),
            ({"tests": [{"input": "a"}]}, "a list of objects with input and output"),
            ({"tests": [{"input": "a", "output": None}]}, "a list of texts"),
            ({"tests": []}, "a list of texts, and not empty"),
        ],
    )
    def test_what_cannot_be_judged_is_an_error(self, meta, problem):
        task = Task("t", [], None, meta)
        for text in ("", "```python\nprint(1)\n```"):
            with pytest.raises(ValueError, match=problem):
                CodeVerifier()(task, answered(task, text))

    def test_a_sandbox_that_fails_is_an_error(self, monkeypatch):
        monkeypatch.setattr("sys.executable", "/bin/false")
        with pytest.raises(SandboxError, match="the sandbox did not start"):
            judged(SUM, "def f(a, b): return a + b")

    def test_examples(self):
        assert CodeVerifier().example(SUM) is None
        assert CodeVerifier().example(GCD).startswith("```python\n\n\ndef greatest")

    def test_forms_of_cases(self):
        assert read_tests(ECHO) == Cases(["1 2\n", "4 5\n"], ["3\n", "9\n"])
        assert read_tests(Task("t", [], None, {"inputs": ["a"], "outputs": ["b"]})) == Cases(["a"], ["b"])


class TestPrograms:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("```python\na\n```", ["a\n"]),
            ("```\na\n```\n```py\nb\nc\n```", ["a\n", "b\nc\n"]),
            ("```json\n{}\n```\n~~~python3\na\n~~~", ["a\n"]),
            ("text ```python a``` text", []),
            ("```python\nunclosed", ["unclosed\n"]),
            ("````python\n'''\n```\n'''\n````", ["'''\n```\n'''\n"]),
            ("```bash\npip\n```\n", []),
            ("```python\n```", []),
            ("```Python title\na\n```", ["a\n"]),
        ],
    )
    def test_fences(self, text, found):
        assert blocks(text) == found

    def test_the_last_block_that_defines_what_is_asked_for(self):
        tests = Unit("", ["f()"], [], entry="f")
        text = "```python\ndef f(): 1\n```\nIt is used so:\n```python\nprint(f())\n```"
        assert program(text, "auto", tests) == "def f(): 1\n"
        assert program(text, "auto", Cases([], [])) == "print(f())\n"
        assert program(f"{text}\n```py\nf = max\n```", "auto", tests) == "f = max\n"

    def test_thoughts_are_not_read(self):
        text = "```python\nprint(1)\n```</think>```python\nprint(2)\n```"
        assert program("<think>" + text.replace("</think>", "</think>\n"), "auto", Cases([], [])) == "print(2)\n"
        assert program("<think>```python\nprint(1)\n```</think>", "auto", Cases([], [])) is None

    def test_plain_code(self):
        assert program("print(1)", "auto", Cases([], [])) == "print(1)"
        assert program(" \n", "auto", Cases([], [])) is None

    @given(st.text(alphabet="`~ap\n -", max_size=80))
    def test_any_text_has_some_blocks(self, text):
        for block in blocks(text):
            assert set(block.split("\n")) - {""} <= set(text.splitlines())


@isolated
class TestInWorkers:
    def test_bombs_beside_right_answers(self):
        name = secrets.token_hex(6)
        bomb = calling_itself(name) + "while True:\n    try: os.fork()\n    except OSError: pass"
        right = "def f(a, b): return a + b"
        verifier = CodeVerifier(seconds=3, cpu_seconds=2)

        async def run():
            with VerifierPool(verifier, workers=2) as pool:
                texts = [
                    bomb,
                    right,
                    "def f(*_): return bytes(10 ** 11)",
                    right,
                    "import os; os.kill(os.getppid(), 9)",
                    right,
                ]
                return await asyncio.gather(*(pool(SUM, answered(SUM, f"```python\n{text}\n```")) for text in texts))

        assert [score.value for score in asyncio.run(run())] == [0, 1, 0, 1, 0, 1]
        assert gone(name)

    def test_programs_die_with_their_worker(self):
        name = secrets.token_hex(6)
        text = f"```python\n{calling_itself(name)}\nimport time\ntime.sleep(60)\n```"

        async def run():
            with VerifierPool(CodeVerifier(seconds=60), workers=1, timeout=60) as pool:
                asked = asyncio.ensure_future(pool(SUM, answered(SUM, text)))
                until = time.monotonic() + 30
                while not named(name) and time.monotonic() < until:
                    await asyncio.sleep(0.02)
                assert named(name)
                pool.close()
                return await asked

        assert "closed" in asyncio.run(run()).error
        assert gone(name)

    def test_refusal_reaches_every_verdict(self):
        async def run(verifier):
            with VerifierPool(verifier, workers=1) as pool:
                return await pool(SUM, answered(SUM, "def f(a, b): return a + b"))

        score = asyncio.run(run(Refused()))
        assert score.value is None
        assert "no isolation for model-written programs here" in score.error


class Refused(CodeVerifier):
    """Where there are no namespaces: without privileges, in a process that may not have any."""

    def prepare(self):
        from hone.verifiers.jail import namespaces

        if os.geteuid():
            proc = os.open("/proc", os.O_RDONLY)
            namespaces._unshare_users(0, proc)
            namespaces._write(proc, "sys/user/max_user_namespaces", "0")
        namespaces.drop_capabilities()
        super().prepare()
