"""The machine, the versions and the date of a report."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from bitmar import __version__
from bitmar.runtime.diagnosis import diagnose

PACKAGES = (
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "lm-eval",
    "pycocoevalcap",
    "scipy",
    "matplotlib",
    "datasets",
)


def machine() -> dict[str, Any]:
    """By name, ready for JSON."""
    about = diagnose()
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": about["processor"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": busy(),
        "system": about["system"],
        "python": about["python"],
        "engine": about["chosen"],
        "versions": {"bitmar": __version__, **{name: found for name in PACKAGES if (found := _version(name))}},
    }


def busy() -> float | None:
    """How many processes have wanted a core in the last minute, None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
