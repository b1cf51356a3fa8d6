"""What a program may try, and that nothing comes of it: outside nothing changes, and what is right still is."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hone.verifiers import sandbox
from hone.verifiers.jail import wire
from hone.verifiers.sandbox import Limits, Sandbox, SandboxError

SOURCE = Path(__file__).parents[2] / "src"
SMALL = Limits(seconds=60.0, cpu_seconds=1)
QUICK = Limits(seconds=1.0)
DOUBLE = "def f(x):\n    return 2 * x\n"


def isolation():
    try:
        Sandbox().check()
    except SandboxError as error:
        return str(error)


isolated = pytest.mark.skipif(MISSING := isolation() or False, reason=str(MISSING))


def printed(program, text="", **settings):
    [output] = Sandbox(**{"limits": SMALL, **settings}).outputs(program, [text])
    return output


def named(name):
    """The processes of this machine that call themselves so."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            found += [comm.parent.name] if comm.read_text().strip() == name else []
        except OSError:
            continue
    return found


def calling_itself(name):
    return f"import ctypes, os\nctypes.CDLL(None).prctl(15, b{name!r}, 0, 0, 0)\n"


def gone(name, within=3.0):
    until = time.monotonic() + within
    while named(name) and time.monotonic() < until:
        time.sleep(0.02)
    return not named(name)


@isolated
class TestWhatProgramsSee:
    def test_a_program_reads_its_input_and_prints(self):
        outputs = Sandbox().outputs("print(sum(map(int, open(0).read().split())))", ["1 2", "3\n4"])
        assert [(output.text, output.ended_well) for output in outputs] == [("3\n", True), ("7\n", True)]

    def test_its_root_is_python_alone_and_read_only(self, tmp_path):
        host = tmp_path / "host"
        host.write_text("as it was")
        paths = [str(host), "/x", "/etc/x", "/usr/lib/x", "/proc/x", os.path.join(sys.base_prefix, "lib", "x")]
        output = printed(
            f"""
import os
for path in {paths!r}:
    try:
        open(path, "w")
        print("wrote", path)
    except OSError:
        pass
seen = [path for path in ("/home", "/work", "/run", "/var", "/sys", "/bin", {str(tmp_path)!r}) if os.path.exists(path)]
print(seen, os.listdir("/proc"), os.listdir("/tmp"), os.access("/etc/passwd", os.F_OK))
open("/tmp/mine", "w").write("x")
"""
        )
        assert output.text == "[] [] [] False\n"
        assert output.ended_well
        assert host.read_text() == "as it was"
        assert printed("import os; print(os.listdir('/tmp'))").text == "[]\n"

    def test_no_environment_no_descriptors_no_privileges(self, monkeypatch):
        monkeypatch.setenv("TOKEN_OF_SOMEONE", "s3cret")
        held = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(held, True)
        output = printed(
            """
import ctypes, os
open_ones = []
for fd in range(4096):
    try:
        os.fstat(fd)
        open_ones.append(fd)
    except OSError:
        pass
libc = ctypes.CDLL(None)
ways = [libc.unshare(0x10000000), libc.unshare(0x20000), libc.mount(b"x", b"/tmp", b"tmpfs", 0, None), libc.setuid(0)]
traced = libc.ptrace(16, 1, 0, 0)
print(open_ones, "TOKEN_OF_SOMEONE" in os.environ, ways, traced, libc.prctl(39, 0, 0, 0, 0), os.getpid())
"""
        )
        os.close(held)
        assert output.text == "[0, 1, 2] False [-1, -1, -1, -1] -1 1 2\n"

    def test_links_lead_nowhere(self, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("s3cret")
        output = printed(
            f"""
import os
os.symlink({str(secret)!r}, "/tmp/a"); os.symlink("/proc/1/root" + {str(secret)!r}, "/tmp/b"); os.symlink("/", "/tmp/c")
for path in ("/tmp/a", "/tmp/b", "/tmp/c" + {str(secret)!r}, "/tmp/../.." + {str(secret)!r}, "/dev/shm/a"):
    try:
        print(open(path).read())
    except OSError as error:
        print(type(error).__name__)
try:
    os.link("/etc/ld.so.cache", "/tmp/d")
except OSError as error:
    print("no link")
"""
        )
        assert output.text.split("\n")[:5] == ["FileNotFoundError"] * 5
        assert "s3cret" not in output.text

    def test_no_network(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.2)
            output = printed(
                f"""
import socket
for family, address in ((socket.AF_INET, {server.getsockname()!r}), (socket.AF_INET, ("8.8.8.8", 53)),
                        (socket.AF_UNIX, "/run/x"), (socket.AF_UNIX, "\\0x")):
    try:
        socket.socket(family).connect(address)
        print("connected to", address)
    except OSError:
        pass
"""
            )
            assert (output.text, output.ended_well) == ("", True)
            with pytest.raises(TimeoutError):
                server.accept()

    def test_the_library_is_whole(self):
        modules = (
            "asyncio, bz2, ctypes, decimal, hashlib, lzma, multiprocessing, sqlite3, ssl, unittest, zlib, zoneinfo"
        )
        assert printed(f"import {modules}; print(zoneinfo.ZoneInfo('Europe/Paris'))").ended_well

    def test_packages_only_where_they_are_wanted(self):
        program = "import numpy; print(numpy.arange(3).sum())"
        assert printed(program).status == 1
        roomy = Limits(memory_mb=2048, cpu_seconds=8)
        assert printed(program, packages=True, limits=roomy).text == "3\n"

    def test_packages_may_lie_under_tmp(self, monkeypatch):
        """As where the whole project was cloned to there; what else is in it stays hidden, and all is read-only."""
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            Path(folder, "packages").mkdir()
            Path(folder, "packages", "brought.py").write_text("number = 7")
            Path(folder, "secret").write_text("42")
            monkeypatch.setattr(sandbox, "_packages", lambda: [f"{folder}/packages"])
            program = f"""import brought, os
print(brought.number, os.listdir({folder!r}))
try:
    open({folder!r} + "/packages/more", "w")
except OSError as error:
    print(error.strerror)
"""
            assert printed(program, packages=True).text == "7 ['packages']\nRead-only file system\n"


@isolated
class TestLimits:
    @pytest.mark.parametrize(
        ("program", "why", "status"),
        [
            ("while True: pass", None, 128 + 9),
            ("import signal\nfor n in (14, 15, 24): signal.signal(n, signal.SIG_IGN)\nwhile True: pass", None, 128 + 9),
            ("while True: print('x' * 1000)", "output", None),
            ("print('x' * (2 ** 20 + 1))", "output", None),
            ("bytearray(10 * 2 ** 30)", None, 1),
            ("held = []\nwhile True: held.append(bytearray(2 ** 20))", None, None),
            ("f = open('/tmp/x', 'wb')\nfor _ in range(1000): f.write(bytes(2 ** 20))", None, 1),
            ("for i in range(100): open(f'/tmp/{i}', 'wb').write(bytes(2 ** 20 * 15))", None, 1),
            ("held = [open('/dev/null') for _ in range(1000)]", None, 1),
            ("import ctypes; ctypes.string_at(0)", None, 128 + 11),
            ("import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()", None, None),
            ("import sys; print(1); sys.exit(3)", None, 3),
            ("import os; os._exit(4)", None, 4),
            ("import os; os.abort()", None, 128 + 6),
            ("raise KeyboardInterrupt", None, 1),
            ("print(", None, 1),
        ],
    )
    def test_a_program_that_goes_too_far_ends(self, program, why, status):
        start = time.monotonic()
        output = printed(program)
        assert output.why == why
        assert status in (None, output.status)
        assert not output.ended_well
        assert time.monotonic() - start < SMALL.seconds + 2
        assert len(output.text) <= SMALL.output

    @pytest.mark.parametrize(
        "before", ["", "import os; os.close(1)", "import signal; signal.pthread_sigmask(0, range(1, 65))"]
    )
    def test_a_program_that_waits_ends(self, before):
        start = time.monotonic()
        assert printed(f"{before}\nimport time; time.sleep(60)", limits=QUICK).why == "time"
        assert time.monotonic() - start < 3

    def test_a_fork_bomb_is_counted_and_does_not_outlive_its_time(self):
        name = secrets.token_hex(6)
        counting = (
            "n = 0\ntry:\n    while True:\n        if os.fork() == 0: import time; time.sleep(60)\n        n += 1\n"
        )
        counted = printed(calling_itself(name) + counting + "except OSError: print(n)")
        assert counted.text == f"{SMALL.processes - 1}\n"
        bomb = "while True:\n    try: os.fork()\n    except OSError: pass"
        assert not printed(calling_itself(name) + bomb, limits=QUICK).ended_well
        assert gone(name)

    def test_two_at_a_time_have_limits_of_their_own(self):
        sleep = "import os\nfor _ in range(7): os.fork() or __import__('time').sleep(60)\n__import__('time').sleep(60)"
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        code = f"from hone.verifiers.sandbox import *\nlist(Sandbox(limits=Limits(seconds=2)).outputs({sleep!r}, ['']))"
        with subprocess.Popen([sys.executable, "-c", code], env=environment):
            time.sleep(0.7)
            assert printed("import os\npid = os.fork()\nif pid: os.waitpid(pid, 0); print('forked')").text == "forked\n"

    def test_a_daemon_ends_with_the_program(self):
        name = secrets.token_hex(6)
        daemon = (
            "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        import time; time.sleep(60)\nprint(1)"
        )
        start = time.monotonic()
        assert printed(calling_itself(name) + daemon).text.startswith("1\n")
        assert time.monotonic() - start < 2
        assert gone(name)

    def test_no_one_can_be_killed(self):
        output = printed(
            "import os, signal\nfor pid in (1, os.getppid(), 0x7ffffff, -1):\n"
            "    for kind in (signal.SIGKILL, signal.SIGSTOP):\n"
            "        try: os.kill(pid, kind)\n"
            "        except OSError: pass\n"
            "print('alive')"
        )
        assert (output.text, output.ended_well) == ("alive\n", True)

    def test_inputs_share_the_time(self):
        program = "import time; time.sleep(0.7); print(1)"
        start = time.monotonic()
        outputs = list(Sandbox(limits=Limits(seconds=1.2)).outputs(program, ["", "", ""]))
        assert [output.why for output in outputs] == [None, "time", "time"]
        assert time.monotonic() - start < 3

    def test_input_is_read_as_one_likes(self):
        text = "é\n" * 100_000
        assert printed("import sys; print(sum(1 for _ in sys.stdin))", text).text == "100000\n"
        assert printed("print(input() + input())", "a\nb").text == "ab\n"
        assert printed("input()", "").status == 1
        assert printed("print('ignored')", text).text == "ignored\n"
        assert printed("import os; os.close(0); print(1)", text).text == "1\n"


@isolated
class TestCalls:
    def test_each_test_has_its_own_verdict(self):
        tests = [
            "assert f(1) == 2",
            "assert f(1) == 3",
            "assert f('ab') == 'abab'",
            "f(None)",
            "assert f([1]) == [1, 1]",
        ]
        assert Sandbox().test(DOUBLE, "", tests, []) == [True, False, True, False, True]

    @pytest.mark.parametrize(
        "program", ["def f(", "raise ValueError", "import sys; sys.exit(0)", "import os; os._exit(0)"]
    )
    def test_what_cannot_be_loaded_has_no_verdicts(self, program):
        assert Sandbox().test(program, "", ["pass"], []) is None

    @pytest.mark.parametrize(
        "value",
        ["None", "True", "-3", "10 ** 5000", "0.1", "float('inf')", "1j", "'é\\ud800'", "b'\\x00'", "[1, [2]]",
         "(1, (2,))",
         "{1: {'a': (2,)}}", "{(1, 2): {3}}", "frozenset({1})", "range(3)", "int", "ValueError", "bytearray(b'a')",
         "__import__('decimal').Decimal('1.50')", "__import__('fractions').Fraction(1, 3)",
         "__import__('datetime').date(2020, 2, 29)"],
    )  # fmt: skip
    def test_values_pass_there_and_back(self, value):
        tests = [f"x = {value}\ny = f(x)\nassert type(x) is type(y) and x == y"]
        assert Sandbox().test("def f(x):\n    return x", "", tests, []) == [True]

    def test_subclasses_arrive_as_what_they_are_plainly(self):
        program = """
import collections, enum
Point = collections.namedtuple("Point", "x y")
class Colour(enum.IntEnum):
    RED = 1
class Yes(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(i): return [Point(1, 2), Colour.RED, collections.Counter("aab"), Yes(3)][i]
"""
        tests = ["assert f(0) == (1, 2)", "assert f(1) == 1", "assert f(2) == {'a': 2, 'b': 1}", "assert f(3) == 4"]
        assert Sandbox().test(program, "", tests, []) == [True, True, True, False]

    def test_classes_and_iterators_of_the_program(self):
        program = """
class Stack:
    def __init__(self, items): self.items = list(items)
    def push(self, item): self.items.append(item)
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
    def __str__(self): return f"Stack({self.items})"
def counted():
    yield from (1, 2, 3)
def adder(n): return lambda x: x + n
def size(stack): return len(stack.items)
"""
        tests = [
            "s = Stack([1]); s.push(2); assert s.pop() == 2 and len(s) == 1 and s[0] == 1 and str(s) == 'Stack([1])'",
            "assert list(counted()) == [1, 2, 3] and sum(counted()) == 6",
            "assert adder(3)(4) == 7",
            "s = Stack([]); s.items = [1, 2]; assert size(s) == 2 and s.items == [1, 2]",
            "s = Stack([1]); assert s and not Stack([])",
            "try:\n    Stack([]).pop()\nexcept IndexError:\n    pass\nelse:\n    raise AssertionError",
        ]
        assert Sandbox().test(program, "", tests, []) == [True] * 6
        compared = ["s = Stack([1]); s == s", "Stack([1]) != Stack([2])", "Stack([1]) < Stack([2])", "{Stack([1])}"]
        assert Sandbox().test(program, "", compared, []) == [False] * 4

    def test_a_call_that_ends_the_program_fails_the_rest(self):
        program = "import os, sys\ndef f(x):\n    if x == 1: sys.exit(0)\n    if x == 2: os._exit(0)\n    return x"
        tests = ["assert f(0) == 0", "f(1)", "assert f(3) == 3", "f(2)", "f(0)"]
        assert Sandbox().test(program, "", tests, []) == [True, False, True, False, False]

    def test_the_time_that_is_left_fails_the_rest(self):
        tests = ["assert f(0) == 0", "f(60)", "assert f(0) == 0"]
        program = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
        start = time.monotonic()
        assert Sandbox(limits=Limits(seconds=1)).test(program, "", tests, []) == [True, False, False]
        assert Sandbox(limits=Limits(seconds=1)).test("while True: pass", "", tests, []) is None
        assert time.monotonic() - start < 5

    @pytest.mark.parametrize(
        "answer",
        ["b'\\xff\\xff\\xff\\xff'", "b'\\x00\\x00\\x00\\x02no'", "b'\\x00\\x00\\x00\\x02[]'",
         "b'\\x00\\x00\\x00\\x02{}' * 2",
         "b'\\x00\\x00\\x00\\x11{\"value\":{\"x\":1}}'", "b'\\x00\\x00\\x00\\x14{\"value\":{\"ref\":-1}}' * 5",
         "b'\\x00\\x01\\x00\\x00' + b'[' * 65536"],
    )  # fmt: skip
    def test_forged_answers_are_no_values(self, answer):
        program = f"import os\ndef f(x):\n    os.write(4, {answer})\n    return x"
        passed = Sandbox(limits=SMALL).test(program, "", ["assert f(1) == 2", "assert f(3) == 4"], [])
        assert passed == [False, False]

    def test_a_huge_value_is_a_failure(self):
        program = "def f(x):\n    return 'a' * 10 ** x"
        assert Sandbox(limits=SMALL).test(program, "", ["assert f(3) == 'a' * 1000", "f(8)"], []) == [True, False]


@isolated
class TestWithoutIt:
    def test_it_says_so_and_refuses(self):
        code = """
import os
from hone.verifiers.jail import namespaces
from hone.verifiers.sandbox import Sandbox, SandboxError
if os.geteuid():
    proc = os.open("/proc", os.O_RDONLY)
    namespaces._unshare_users(0, proc)
    namespaces._write(proc, "sys/user/max_user_namespaces", "0")
namespaces.drop_capabilities()
try:
    Sandbox().check()
except SandboxError as error:
    print(error)
print(Sandbox(isolated=False).test("def f(x): return x", "", ["assert f(1) == 1"], []))
"""
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        refused, allowed = done.stdout.splitlines()
        assert refused.startswith("no isolation for model-written programs here: ")
        assert "unshare" in refused
        assert "`isolation: none`" in refused
        assert allowed == "[True]"

    def test_an_ordinary_user_has_it_too(self):
        python = "/usr/bin/python3"
        code = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n" + (
            "from hone.verifiers.sandbox import Sandbox\nSandbox().check()\n"
            "print([o.text for o in Sandbox().outputs('import os; print(os.getpid(), os.listdir(\"/proc\"))', [''])])"
        )
        if os.geteuid():
            pytest.skip("this is one, and every other test has tried it")
        try:
            done = subprocess.run(
                [python, "-BPc", code], user=65534, group=65534, capture_output=True, text=True, cwd="/"
            )
        except OSError as error:
            pytest.skip(f"no {python}: {error}")
        if "No module named 'hone'" in done.stderr or "Permission" in done.stderr or "datetime" in done.stderr:
            pytest.skip("nobody cannot read the sources")
        assert done.stdout == '["2 []\\n"]\n' or done.stdout == "['2 []\\n']\n", done.stderr


class TestLimitsAlone:
    def test_limits_hold(self):
        assert printed("print(input())", "a", isolated=False).text == "a\n"
        assert printed("bytearray(10 * 2 ** 30)", isolated=False).status == 1
        assert printed("while True: print('x' * 1000)", isolated=False).why == "output"
        assert Sandbox(isolated=False).test(DOUBLE, "", ["assert f(1) == 2", "assert f(1) == 3"], []) == [True, False]

    def test_its_children_end_with_it(self):
        name = secrets.token_hex(6)
        fork = "if os.fork() == 0:\n    import time; time.sleep(60)\nprint(os.getcwd(), flush=True)"
        output = printed(calling_itself(name) + "import sys\n" + fork, isolated=False, limits=QUICK)
        folder = output.text.strip()
        assert "hone-" in folder
        assert not os.path.exists(folder)
        assert gone(name)


class TestWire:
    def test_messages(self):
        read, write = os.pipe()
        for message in ({"a": [1, None, "é\ud800"]}, [], 3):
            wire.send(write, message)
            assert wire.receive(read) == message
        with pytest.raises(ValueError, match="at most"):
            wire.send(write, "a" * wire.MAX_BYTES)
        os.write(write, b"\x00\x00\x00\x09abc")
        os.close(write)
        with pytest.raises(wire.Broken):
            wire.receive(read)
        os.close(read)

    @pytest.mark.parametrize(
        "data",
        [{}, {"a": 1}, {"tuple": 1}, {"dict": [1]}, {"dict": [[[], 1]]}, {"text": ["os.system", "x"]},
         {"builtin": "exec"},
         {"builtin": "open"}, {"builtin": "x"}, {"ref": "a"}, {"bytes": "zz"}, {"complex": "ab"}, {"range": [1, 2, 0]},
         {"set": [{"dict": []}]}, {"a": 1, "b": 2}],
    )  # fmt: skip
    def test_what_is_no_value_is_refused(self, data):
        with pytest.raises(wire.Broken):
            wire.decode(data, lambda number: [][number])
