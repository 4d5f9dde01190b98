"""Which engine runs here, and why: for `bitmar doctor`, and for whoever writes a measurement down."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from bitmar.core.container import open_container
from bitmar.core.errors import BitMarError, ConfigError
from bitmar.runtime.backend import NUMPY, VARIABLE
from bitmar.runtime.choose import choose_backend
from bitmar.runtime.locate import find_model


def diagnose() -> dict[str, Any]:
    """Version, system, kernel paths with why each does not run, the one that is chosen and why, the bundled model.

    chosen: None where the environment asks for an engine that cannot run, and `because` says which ones can.
    """
    from bitmar import __version__

    wish = os.environ.get(VARIABLE)
    paths = [{"name": name, "reason": reason} for name, reason in native_paths()]
    built = bool(paths)
    paths.append({"name": NUMPY, "reason": ""})
    chosen: str | None = NUMPY
    refused = ""
    try:
        container = open_container(find_model())
        model = str(container.path)
        chosen = choose_backend(container).name
    except ConfigError as error:
        chosen, refused = None, str(error)
    except BitMarError as error:
        model = f"none ({error})"
    if refused:
        because = f"{VARIABLE}={wish}: {refused}"
    elif wish:
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
