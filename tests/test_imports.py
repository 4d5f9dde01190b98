"""The runtime half stands without torch and transformers, and importing the package costs next to nothing."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bitmar
from bitmar.core import errors

ROOT = Path(__file__).resolve().parent.parent
# None in sys.modules makes an import fail as it does where the package is not installed.
BLOCK = (
    "import sys\n"
    "heavy = ['torch', 'transformers', 'accelerate', 'datasets', 'webdataset', 'ai_edge_litert']\n"
    "sys.modules.update(dict.fromkeys(heavy))\n"
)


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def modules(package: str) -> list[str]:
    folder = Path(bitmar.__file__).parent / package
    if not folder.is_dir():
        return []
    found = pkgutil.walk_packages([str(folder)], f"bitmar.{package}.")
    return [f"bitmar.{package}", *(module.name for module in found)]


def test_the_runtime_half_imports_without_torch() -> None:
    names = [*modules("core"), *modules("runtime"), *modules("session"), "bitmar.api", "bitmar.export"]
    assert "bitmar.core.container" in names and "bitmar.runtime.engine" in names
    run(BLOCK + "".join(f"import {name}\n" for name in names) + "import bitmar\nbitmar.load, bitmar.BitMar\n")


def test_shards_are_captioned_without_torch() -> None:
    run(BLOCK + "import bitmar.data.sources, bitmar.data.shards, bitmar.data.features, bitmar.cli.shards\n")


def test_the_blocker_blocks() -> None:
    run(BLOCK + "try:\n    import torch\nexcept ModuleNotFoundError:\n    pass\nelse:\n    raise SystemExit(1)")


def test_importing_the_package_loads_nothing() -> None:
    heavy = "{'numpy', 'tokenizers', 'PIL', 'torch', 'transformers', 'safetensors', 'huggingface_hub'}"
    assert run(f"import sys, bitmar; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"
    seconds = run("import time; start = time.process_time(); import bitmar; print(time.process_time() - start)")
    assert float(seconds) < 0.3


def test_captioning_keeps_the_network_out_of_memory() -> None:
    code = "import sys, bitmar, PIL.Image\nbitmar.load().caption(PIL.Image.new('RGB', (32, 32)))\n"
    assert run(code + "print(sorted({'http', 'ssl', 'email', 'asyncio'} & set(sys.modules)))").strip() == "[]"


def test_every_public_name_is_there_and_every_error_is_public() -> None:
    public = {name: getattr(bitmar, name) for name in bitmar.__all__}
    ours = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert ours == {each for each in public.values() if isinstance(each, type) and issubclass(each, Exception)}
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        bitmar.lode  # noqa: B018


def test_the_version_is_that_of_the_project() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared and bitmar.__version__ == declared.group(1)


def test_unknown_names_fail_as_usual() -> None:
    run("import bitmar\nassert not hasattr(bitmar, 'lod')")
