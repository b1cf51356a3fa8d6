"""The floors and rooms of the library, held by its syntax trees: what may import what."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hone
from hone.registry import REGISTRY

ROOT = Path(hone.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ROOMS = [
    {"types", "keys", "params", "state", "dealing", "launcher", "ranks"},
    {"seats"},
    {"math", "collate", "masks", "sections", "prompts", "synthesis", "checksums", "shards", "peaks"}
    | {"hangs", "records", "compiling"},
    {"objectives", "policies", "samplers", "tasks", "envs", "verifiers", "hooks", "writers", "papers", "guards"}
    | {"engines"},
    {"collect", "learner", "checkpoint", "session", "folder", "origin", "trainer", "runtime", "report"}
    | {"meter", "recovery", "interrupt", "judging", "sharing", "snapshot", "planning", "ahead", "coming"},
    {"registry", "parts", "build", "document", "config", "schema", "order", "check", "miniature"}
    | {"candidates", "changes", "ledger", "evaluation", "scoring", "fitting", "serving"},
    {"cli", "commands"},
]
"""From the ground up. A new file or folder of the library is given its floor here."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
NEIGHBOURS = {0, 4, 5, 6}
"""Floors whose rooms may import each other, so long as there is no circle."""
HEAVY = ("vllm", "diffusers", "wandb", "matplotlib", "reasoning_gym", "math_verify", "torch.utils.tensorboard")


@dataclass(frozen=True)
class Import:
    file: Path
    line: int
    module: str
    when: str
    """"import" of the file, "call" of a function, or "check", for the type checker alone."""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


MODULES = {module_name(file): file for file in FILES}


def imports(file: Path) -> Iterator[Import]:
    def visit(node: ast.AST, when: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            for module in named(child, file):
                yield Import(file, child.lineno, module, when)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(child, "call")
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                yield from visit(child, "check")
            else:
                yield from visit(child, when)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), "import")


def named(node: ast.AST, file: Path) -> list[str]:
    """The modules that one statement imports; a name of the package is the module where it lives."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [a.value for a in node.args if isinstance(a, ast.Constant)]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = module_name(file).split(".") if file.name == "__init__.py" else module_name(file).split(".")[:-1]
    above = package[: len(package) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    inner = [f"{base}.{alias.name}" for alias in node.names]
    if base == "hone":
        return [hone._HOMES.get(alias.name, f"hone.{alias.name}") for alias in node.names]
    return [name if name in MODULES else base for name in inner]


ALL = [found for file in FILES for found in imports(file)]
OWN = [found for found in ALL if found.module.split(".")[0] == "hone"]


def test_every_room_has_a_floor():
    assert {room(module) for module in MODULES} - {""} <= FLOOR.keys()


def test_a_floor_imports_only_lower_floors_or_its_own_room():
    def allowed(found: Import) -> bool:
        own, other = room(module_name(found.file)), room(found.module)
        if not own or not other:
            return not own and not other
        same_floor = FLOOR[own] == FLOOR[other]
        return own == other or FLOOR[other] < FLOOR[own] or (same_floor and FLOOR[own] in NEIGHBOURS)

    assert [str(found) for found in OWN if not allowed(found)] == []


def test_no_circles():
    graph = {module: set() for module in MODULES}
    for found in OWN:
        own = module_name(found.file)
        if found.when == "import" or room(own) != room(found.module):  # within a room, a late import may turn back
            graph[own].add(found.module)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_package_itself_imports_nothing():
    assert [str(found) for found in OWN if found.file == ROOT / "__init__.py"] == []


def test_the_loop_names_no_implementation():
    implementations = {address.partition(":")[0] for names in REGISTRY.values() for address in names.values()}
    named = [found for found in OWN if FLOOR.get(room(module_name(found.file))) == 4]
    assert [str(found) for found in named if found.module in implementations] == []


def test_heavy_packages_are_loaded_only_by_implementations_that_are_imported_by_name():
    loading = {module_name(found.file) for found in ALL if found.when == "import" and found.module.startswith(HEAVY)}
    while more := {module_name(f.file) for f in OWN if f.when == "import" and f.module in loading} - loading:
        loading |= more
    assert {module for module in loading if FLOOR[room(module)] != 3 or MODULES[module].name == "__init__.py"} == set()


@pytest.mark.parametrize("module", ["hone", "hone.verifiers", "hone.seats", "hone.config"])
def test_worker_processes_need_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_no_drawers_for_odds_and_ends():
    names = {part for file in FILES for part in file.relative_to(ROOT).with_suffix("").parts}
    assert names & {"utils", "util", "common", "helpers", "misc"} == set()


def test_files_are_short():
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_public_names_have_docstrings():
    def bare(file: Path) -> Iterator[str]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"

    assert [name for file in FILES for name in bare(file)] == []
