"""Texts that a model may write by accident or by search, and that no verifier may hang on, die of or pay for."""

from __future__ import annotations

_PROGRAMS = {
    "exit": "import sys\nsys.exit(0)",
    "os_exit": "import os\nos._exit(0)",
    "claim": "print('OK')\nprint('all tests passed')",
    "equal_to_all": "class Any:\n    __eq__ = lambda self, other: True\nf = solve = solution = lambda *_: Any()",
    "builtins": "import builtins\nbuiltins.AssertionError = builtins.len = builtins.isinstance = lambda *_: True",
    "check": "def check(*_):\n    return True",
    "environment": "import os\nprint(dict(os.environ), os.listdir('/'), os.listdir('.'))",
    "descriptors": "import os\nfor fd in range(1, 9):\n    try: os.write(fd, b'true')\n    except OSError: pass",
    "fork_bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass",
    "memory": "held = bytearray(10 * 2 ** 30)",
    "output": "while True:\n    print('x' * 1000)",
    "forever": "while True:\n    pass",
    "kill": "import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)",
}
"""Model-written programs; a verifier that runs programs should pay none, and outlive all."""


def adversarial() -> dict[str, str]:
    r"""Name -> response. Built when asked for: one of them has 10 MB.

    None is a right answer to a sensible question; a verifier should give each 0 and answer within its time limit.
    """
    inner = {
        "power_tower": "9**9**9**9",
        "latex_tower": "9^{9^{9^9}}",
        "huge_exponent": "10^{1000000000}",
        "huge_factorial": "99999999!",
        "huge_binomial": r"\binom{1000000000}{500000000}",
        "huge_product": r"\prod_{i=1}^{10000000} i",
        "huge_expansion": "(x+1)^{1000000}",
        "false_equation": "41 = 42",
        "huge_equation": "9^{9^{9^9}} = 42",
        "long_integer": "9" * 10_000,
        "overflow": "1e999",
        "huge_float": "1e999999999",
        "tiny_float": "1e-999999999",
        "nan": "nan",
        "infinity": "-inf",
        "json_nan": '{"name": "f", "arguments": {"x": NaN}}',
        "repeated_key": '{"name": "f", "name": "g", "arguments": {}}',
        "code": "__import__('os').system('echo run')",
        "code_without_quotes": "exec(bytes([49]))",
        "nested_parentheses": "(" * 1000 + "1" + ")" * 1000,
        "nested_brackets": "[" * 1000 + "]" * 1000,
        "nested_braces": '{"a":' * 1000 + "1" + "}" * 1000,
        "open_brackets": "[" * 100_000,
        "unbalanced": "}}}{{{",
        "null_bytes": "\x00" * 10,
        "unicode_digits": "１२３ ४५६ ²³",
        "surrogate": "\ud800",
        "bidirectional": "\u202e42\u202c",
        "all_letters": "A B C D E F G H I J",
        "many_answers": " ".join(map(str, range(1000))),
        "division_by_zero": "1/0",
    }
    probes = {"empty": "", "blank": " \n\t\n ", "long_text": "junk " * 2_000_000}
    for name, text in inner.items():
        probes |= {name: text, f"{name}_tagged": f"<answer>{text}</answer>", f"{name}_boxed": rf"\boxed{{{text}}}"}
    probes |= {f"program_{name}": f"```python\n{text}\n```" for name, text in _PROGRAMS.items()}
    return probes | {
        "boxed_everything": " ".join(rf"\boxed{{{n}}}" for n in range(1000, 0, -1)),
        "nested_boxes": r"\boxed{" * 1000 + "}" * 1000,
        "open_boxes": r"\boxed{" * 3000,
        "open_tags": "<answer>" * 3000,
        "open_calls": "<tool_call>" * 2000,
        "open_fences": "```json\n" * 2000,
        "empty_tag": "<answer></answer>",
    }
