"""Builds web/dist, a folder for any static host: the engine in WebAssembly, bitmar-web, the page, the model.

python scripts/web.py    with Python 3.11 and requirements/web.txt; `make web` makes an environment of these
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
WEB, DIST = ROOT / "web", ROOT / "web" / "dist"
MODEL = ROOT / "src/bitmar/assets/bitmar-default.bitmar"
PAGE = ROOT / "src/bitmar/serve/page"  # the server's: its api.js gives way to one that asks no server

SOURCES = [
    "concepts", "conv", "dispatch", "linear", "memory", "model", "model_file", "photo_model", "portable", "resize",
    "sampling", "simd128", "state", "vision",
]  # fmt: skip
FLAGS = [
    "-target", "wasm32-wasi", "-mcpu=baseline+simd128+bulk_memory+sign_ext+nontrapping_fptoint",
    "-mexec-model=reactor", "-Wl,--export=__stack_pointer",
    "-std=c++17", "-O3", "-s", "-Wall", "-fno-rtti", "-fignore-exceptions",
    "-ffp-contract=off", "-fno-math-errno", "-DBITMAR_HAS_SIMD128",
]  # fmt: skip
MOST = 400_000  # bytes, gzipped, of all but the model


def build_wasm(out: Path) -> None:
    """The engine. The compiler first builds its C++ library, once for a machine, which takes minutes."""
    sources = [f"native/{name}.cpp" for name in SOURCES]
    compiler = [sys.executable, "-m", "ziglang", "c++"]
    subprocess.run([*compiler, *FLAGS, "-Inative", *sources, "native/web.cc", "-o", str(out)], cwd=ROOT, check=True)


def copy_package(out: Path) -> None:
    """bitmar-web, as npm takes it: `npm pack web/dist/bitmar`."""
    for path in [*WEB.glob("*.js"), *WEB.glob("*.d.ts"), ROOT / "LICENSE"]:
        shutil.copy(path, out)
    tables = {"general": "runtime/general.tsv", "stopwords": "core/stopwords.txt", "synonyms": "core/synonyms.tsv"}
    texts = {name: (ROOT / "src/bitmar" / path).read_text(encoding="utf-8") for name, path in tables.items()}
    (out / "tables.json").write_text(json.dumps(texts))
    about = json.loads((WEB / "package.json").read_text())
    about["version"] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (out / "package.json").write_text(json.dumps(about, indent=2) + "\n")


def copy_model(out: Path) -> None:
    """The bundled model under a name of its own, so that no cache takes an old one for a new one."""
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    name = f"bitmar-{digest[:12]}.bitmar"
    shutil.copy(MODEL, out / name)
    about = {"name": MODEL.stem, "file": name, "bytes": MODEL.stat().st_size, "sha256": digest}
    (out / "model.json").write_text(json.dumps(about) + "\n")


def copy_page(out: Path) -> None:
    """The server's page, but for the files that ask the server."""
    (out / "page").mkdir()
    for path in [*PAGE.iterdir(), *(WEB / "page").iterdir()]:
        at_the_top = path.name in ("index.html", "sw.js", "manifest.webmanifest")
        shutil.copy(path, out if at_the_top else out / "page")


def list_files(out: Path) -> None:
    """What sw.js keeps, under a version that changes when one of the files does."""
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.suffix != ".bitmar")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    files = [path.relative_to(out).as_posix() for path in paths if path.name != "LICENSE"]
    listed = json.dumps({"version": digest[:12], "files": [".", *files]})
    (out / "files.js").write_text(f"self.BITMAR = {listed};\n")


def main() -> None:
    """Build all of it anew, and say how large it is."""
    shutil.rmtree(DIST, ignore_errors=True)
    (DIST / "bitmar").mkdir(parents=True)
    build_wasm(DIST / "bitmar/bitmar.wasm")
    copy_package(DIST / "bitmar")
    copy_model(DIST)
    copy_page(DIST)
    list_files(DIST)
    files = [path for path in sorted(DIST.rglob("*")) if path.is_file() and path.suffix != ".bitmar"]
    size = sum(len(gzip.compress(path.read_bytes())) for path in files)
    print(f"web/dist: {size:,} bytes gzipped in {len(files)} files, and the model, {MODEL.stat().st_size:,} bytes")
    if size > MOST:
        sys.exit(f"more than {MOST:,} bytes")


if __name__ == "__main__":
    main()
