"""Puts one fault at a time into a copy of the project and runs the tests that must notice it.

    python scripts/mutants.py [WORD...]    only the faults whose description or file holds one of the words

tests/mutants.toml lists the faults. A fault that no test can notice has `excused`, which says why, and is not run.
Exit status 1 if one survives unexcused, or cannot be put in because the code has changed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/mutants"
TREE, NATIVE = WORK / "tree", WORK / "native"
SECONDS = 600  # a fault that makes the tests hang is noticed too


def main() -> int:
    mutants = tomllib.loads((ROOT / "tests/mutants.toml").read_text(encoding="utf-8"))["mutant"]
    if words := sys.argv[1:]:
        mutants = [mutant for mutant in mutants if any(word in mutant["what"] + mutant["file"] for word in words)]
    copy_tree()
    run = [mutant for mutant in mutants if "excused" not in mutant]
    native = any(is_native(mutant) for mutant in run)
    if native:
        build()
    everything = sorted({name for mutant in run for name in mutant["tests"]})
    if test(everything):
        print(f"something fails without any fault: {' '.join(everything)}")
        return 1
    counts = {"killed": 0, "survived": 0, "stale": 0, "excused": 0}
    for mutant in mutants:
        found = "excused" if "excused" in mutant else try_one(mutant, native)
        counts[found] += 1
        print(f"{found:9}{mutant['file']}: {mutant['what']}  {mutant.get('excused', '')}".rstrip(), flush=True)
    print(", ".join(f"{count} {name}" for name, count in counts.items()), f"of {len(mutants)}")
    return 1 if counts["survived"] or counts["stale"] else 0


def is_native(mutant: dict[str, Any]) -> bool:
    return bool(mutant["file"].startswith("native/"))


def copy_tree() -> None:
    """The files that git knows or would take, and the native module as it is built; unchanged ones keep their times."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for old in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(old.relative_to(TREE)) not in names:
            old.unlink()
    for name in names:
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        if not (TREE / name).exists() or (TREE / name).read_bytes() != (ROOT / name).read_bytes():
            shutil.copy2(ROOT / name, TREE / name)
    spec = importlib.util.find_spec("bitmar._native")
    if spec is not None and spec.origin is not None:
        shutil.copy2(spec.origin, TREE / "src/bitmar")


def try_one(mutant: dict[str, Any], native: bool) -> str:
    """native: the module was built for this run."""
    path = TREE / mutant["file"]
    good = path.read_text(encoding="utf-8")
    if good.count(mutant["old"]) != 1:
        return "stale"
    path.write_text(good.replace(mutant["old"], mutant["new"]), encoding="utf-8")
    try:
        if native or is_native(mutant):
            build()  # also where the last fault was in the native module
        return "killed" if test(mutant["tests"]) else "survived"
    finally:
        path.write_text(good, encoding="utf-8")


def test(tests: list[str]) -> int:
    # -S leaves out the .pth file of an editable install, which would put its own module before the copy's.
    places = [TREE / "src", sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-S", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        result = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return 1
    if result.returncode not in (0, 1):  # no such test, or none that could be collected
        raise SystemExit(f"{' '.join(tests)}: pytest could not run\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.returncode


def build() -> None:
    """The native module of the copy, in its place; only what has changed is compiled."""
    if not (NATIVE / "CMakeCache.txt").exists():
        found = subprocess.run(
            [sys.executable, "-m", "nanobind", "--cmake_dir"], capture_output=True, text=True, check=True
        )
        options = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={found.stdout.strip()}"]
        _quietly("cmake", "-S", str(TREE), "-B", str(NATIVE), "-DCMAKE_BUILD_TYPE=Release", *options)
    _quietly("cmake", "--build", str(NATIVE), "--parallel", str(os.cpu_count() or 1))
    for module in NATIVE.glob("_native*"):
        if module.suffix in (".so", ".pyd"):
            shutil.copy2(module, TREE / "src/bitmar")


def _quietly(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": _path()})
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed\n{result.stdout[-3000:]}{result.stderr[-3000:]}")


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where pip puts cmake


if __name__ == "__main__":
    sys.exit(main())
