"""The rule of CONTRIBUTING.md about who may import whom, over the syntax tree: imports inside functions and under
TYPE_CHECKING count. Exceptions stand here by name, and an exception that is no longer one fails until it is struck out.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
MOST_LINES = 400

ALLOWED = {  # a room -> the rooms it may import; `bitmar` is the package itself, whose names load lazily
    "core": set(),
    "model": set(),
    "console": {"core"},
    "carried": {"core"},
    "export": {"core", "carried"},
    "backbone": {"core"},
    "runtime": {"core"},
    "session": {"core", "runtime"},
    "reading": {"core", "runtime", "session"},
    "generation": {"core", "runtime", "session"},
    "api": {"core", "runtime", "session", "reading", "generation"},
    "bitmar": {"core", "runtime", "session", "generation", "api"},
    "inspect": {"core", "runtime", "export"},
    "unpack": {"core", "carried", "model"},
    "serve": {"core", "runtime", "session", "generation", "api", "bitmar"},
    "watch": {"core", "runtime", "session", "api"},
    "data": {"core", "console"},
    "train": {"core", "console", "carried", "data", "model", "export", "unpack"},
    "evaluate": {"core", "data", "runtime"},
    "hub": {"core", "api", "unpack"},
    "adapt": {"core", "runtime", "api", "data", "export", "train", "evaluate"},
    "plots": {"core", "data", "evaluate"},
    "report": {"core", "evaluate", "plots"},
}
SEES_ALL = {"cli", "__main__"}  # and nobody sees them

EXCEPTIONS = {  # file -> the rooms it imports against the table
    "bitmar.data.towers.bitvit": {"model"},  # a tower that is trained, run by the model's own code
    "bitmar.data.towers.packed": {"api", "runtime"},  # the tower of a .bitmar file
    "bitmar.train.run": {
        "api",
        "runtime",
        "session",
    },  # a finished run is exported and calibrated as a device will run it
    "bitmar.train.confidence": {"api", "evaluate"},  # and its captions are judged
    "bitmar.train.finetune_report": {"evaluate"},
    "bitmar.inspect": {"train"},
    "bitmar.evaluate.confidence": {"api"},
    "bitmar.evaluate.scorer": {"api"},  # where evaluate meets models
    "bitmar.evaluate.torch_scorer": {"export", "model"},  # and where it meets checkpoints
    "bitmar.evaluate.tasks._first_token": {"bitmar"},
    "bitmar.evaluate.tasks.vqa": {"api"},  # asks as `bitmar ask` does
    "bitmar.evaluate.tasks.speed": {"api"},
    "bitmar.evaluate.tasks.memory": {"api", "session"},
    "bitmar.evaluate.tasks.memory_trials": {"api"},
    "bitmar.plots.slots": {"api", "runtime", "session"},
    "bitmar.plots.snapshots": {"api", "export", "model", "train"},
    "bitmar.plots.trace": {"runtime"},
    "bitmar.plots.words": {"api", "runtime", "session"},
    "bitmar.plots.zeros": {"export"},
    "bitmar.report.machine": {"runtime"},
    "bitmar.report.inside": {"train"},
    "bitmar.report.sections": {"train"},
    "bitmar.report.write": {"train"},
}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, the compiled one by its stub."""
    found = {}
    for path in sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.pyi")]):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, source: str, known: dict[str, Path]) -> set[str]:
    """The modules that a source text imports anywhere. A constant such as `__version__` is none."""
    package = module if known[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names if (base, alias.name) != ("bitmar", "__version__")]
            found |= {f"{base}.{name}" if f"{base}.{name}" in known else base for name in names}
    return found


@cache
def graph() -> dict[str, frozenset[str]]:
    """Every module -> what it imports, of the package and of others."""
    known = modules()
    return {name: frozenset(imported(name, path.read_text(), known) - {name}) for name, path in known.items()}


def room(module: str) -> str:
    return [*module.split("."), "bitmar"][1]


def test_rooms_import_only_what_the_rule_allows() -> None:
    against: dict[str, set[str]] = {}
    for module, imports in graph().items():
        here = room(module)
        if here in SEES_ALL or here == "_native":
            continue
        assert here in ALLOWED, f"{module} is of a new room: say in ALLOWED what it may import"
        others = {room(i) for i in imports if i in modules()} - {here, "_native"}
        if wrong := others - ALLOWED[here]:
            against[module] = wrong
    assert against == EXCEPTIONS, "mend the import, or strike out the exception that is gone"


def test_only_the_engines_open_the_native_module() -> None:
    users = {room(module) for module, imports in graph().items() if "bitmar._native" in imports}
    assert users <= {"runtime", "evaluate"}


def test_nobody_imports_the_command_line() -> None:
    users = {m for m, imports in graph().items() if SEES_ALL & {room(i) for i in imports & modules().keys()}}
    assert not {module for module in users if room(module) not in SEES_ALL}


def test_no_circle_of_files() -> None:
    try:
        TopologicalSorter({m: imports & modules().keys() for m, imports in graph().items()}).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("line", ["import b.c", "def f():\n from b import c", "if TYPE_CHECKING:\n from .c import x"])
def test_the_reader_sees_imports_wherever_they_stand(line: str) -> None:
    known = {"b": Path("b/__init__.py"), "b.c": Path("b/c.py"), "b.d": Path("b/d.py")}
    assert imported("b.d", line, known) == {"b.c"}


def test_no_file_is_too_long() -> None:
    paths = [*modules().values(), *sorted((ROOT / "native").rglob("*.[hc]*")), *sorted((ROOT / "tests").rglob("*.py"))]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert not {path for path, n in lines.items() if n > MOST_LINES}, "cut the file in two"


# A requirement whose module is not called like it, and those that are used without an import of ours.
CALLED = {"pyyaml": "yaml", "scikit_learn": "sklearn", "llama_cpp_python": "llama_cpp", "paho_mqtt": "paho"}
NO_IMPORT = {
    "bitsandbytes",  # `optim: adamw_8bit`
    "trackio",  # `report_to: trackio`
    "s3fs",  # s3:// of fsspec
    "onnx-ir",  # onnxruntime's quantizer of 4 bits imports it
}


def extras() -> list[tuple[str, str]]:
    """(extra, requirement) of pyproject.toml, but for `dev`: Python 3.10 reads no TOML."""
    table = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    found = [(name, text) for name, text in re.findall(r"^(\w+) = \[(.*?)\](?=\s*(?:#.*)?$)", table, re.M | re.S)]
    return [(extra, need) for extra, text in found if extra != "dev" for need in re.findall(r'"([\w-]+)', text)]


def test_every_extra_is_imported_somewhere() -> None:
    found = set().union(*graph().values())
    for path in (ROOT / "benchmarks").rglob("*.py"):
        found |= imported("bitmar", path.read_text(), modules())
    used = {name.split(".")[0] for name in found}
    wanted = extras()
    assert {extra for extra, _ in wanted} >= {"train", "eval", "serve", "plots"}
    names = {need: need.replace("-", "_") for _, need in wanted}
    assert {need for need, name in names.items() if CALLED.get(name, name) not in used} == NO_IMPORT


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the headers with")
def test_headers_compile_alone(tmp_path: Path) -> None:
    headers = [path for path in sorted((ROOT / "native").glob("*.h")) if not path.stem.endswith("-inl")]
    broken = set()
    for header in headers:
        command = ["g++", "-std=c++17", "-fsyntax-only", "-w", "-x", "c++", str(header)]
        if subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60).returncode:
            broken.add(header.name)
    assert not broken, "a header that is only included inside another ends in -inl.h"
