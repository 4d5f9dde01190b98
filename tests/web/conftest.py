"""web/dist as `make web` has built it, and Node to run it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "web/dist"
SOURCES = [
    path
    for pattern in ("native/*.[hc]*", "web/*.*", "web/page/*", "scripts/web.py", "src/bitmar/serve/page/*")
    for path in ROOT.glob(pattern)
]


@pytest.fixture(scope="session")
def dist() -> Path:
    """The folder to serve. Building it takes a compiler of its own, which `make test` does not install."""
    built = DIST / "bitmar/bitmar.wasm"
    if not built.is_file():
        pytest.skip("web/dist is not built: `make web`")
    newer = [path.name for path in SOURCES if path.stat().st_mtime > built.stat().st_mtime]
    if newer:
        pytest.skip(f"web/dist is older than {', '.join(newer[:3])}: `make web`")
    return DIST


@pytest.fixture(scope="session")
def node(dist: Path) -> Callable[..., Any]:
    """node(**job) -> what node.mjs makes of a job."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node here (Debian: apt-get install nodejs)")

    def run(**job: Any) -> Any:
        script, package = Path(__file__).with_name("node.mjs"), dist / "bitmar/index.js"
        given = json.dumps({"package": package.as_uri(), **job}, default=str)
        done = subprocess.run([program, script], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
