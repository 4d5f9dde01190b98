"""Which engine runs here, and why: for `bitmar doctor`, and for whoever writes a measurement down."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from bitmar.core.errors import BitMarError
from bitmar.runtime.backend import NUMPY, VARIABLE


def diagnose() -> dict[str, Any]:
    """Version, system, kernel paths with why each does not run, the one that is chosen and why, the bundled model."""
    from bitmar import __version__
    from bitmar.runtime.api import load

    wish = os.environ.get(VARIABLE)
    paths = [{"name": name, "reason": reason} for name, reason in native_paths()]
    built = bool(paths)
    paths.append({"name": NUMPY, "reason": ""})
    try:
        chosen, model = (loaded := load()).engine.name, str(loaded.path)
    except BitMarError as error:
        chosen, model = NUMPY, f"none ({error})"
    if wish:
        because = f"{VARIABLE}={wish} asks for it"
    elif not built:
        because = "the native engine was not built: install bitmar again where a C++ compiler is (gcc or clang)"
    elif chosen == NUMPY:
        because = "the native engine cannot run this model"
    else:
        because = "it is the fastest that this processor runs"
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor(),
        "paths": paths,
        "chosen": chosen,
        "because": because,
        "model": model,
    }


def native_paths() -> list[tuple[str, str]]:
    """Of the native engine, as `kernel_paths` gives them; none where it was not built."""
    try:
        from bitmar.runtime.native import kernel_paths
    except ImportError:
        return []
    return kernel_paths()


def processor() -> str:
    """Its name, as the system knows it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
