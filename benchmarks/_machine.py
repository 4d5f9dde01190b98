"""What every figure here stands beside: the machine, the versions, the date."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bitmar.core.errors import BitMarError
from bitmar.core.files import write_atomically
from bitmar.core.paths import VARIABLE

SHARED = Path(os.environ.get(VARIABLE) or Path(__file__).resolve().parents[2] / "shared" / "data")

# Instructions that quantised and bfloat16 products live on, by the names that Linux gives them.
_FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
_PACKAGES = ("bitmar", "numpy", "torch", "transformers", "tokenizers", "pillow", "pycocoevalcap")


def machine() -> dict[str, Any]:
    """CPU, cores that this process may use, memory, GPU, versions, load, date and commit."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_gib": _memory(),
        "gpu": _gpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def resident_bytes() -> int | None:
    """Exactly what this process has in memory, where Linux says so."""
    try:
        with open("/proc/self/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Rss:")) * 1024
    except OSError:
        return None


def publish(
    name: str, figures: Mapping[str, Any], *, data: str, out: Path | None, details: Mapping[str, Any] | None = None
) -> None:
    """Print figures (nested mappings become dotted names) beside machine and data, and write all of it as JSON.

    details: too many to print, only written.
    """
    about = machine()
    console = Console()
    table = Table("figure", "value", title=name)
    for label, value in _flat(figures):
        table.add_row(label, value)
    console.print(table)
    console.print(f"data: {data}", highlight=False, markup=False, soft_wrap=True)
    for key, value in about.items():
        shown = " ".join(value) if key == "flags" else value
        console.print(f"{key}: {shown}", highlight=False, markup=False, soft_wrap=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        document = {"benchmark": name, "command": sys.argv, "figures": figures, "data": data, "machine": about}
        document |= {"details": details} if details else {}
        write_atomically(out, json.dumps(document, indent=2, default=str).encode() + b"\n")
        console.print(f"written to {out}", highlight=False, markup=False, soft_wrap=True)


def run(main: Callable[..., None]) -> None:
    """A benchmark's command line; an error is one line and status 1."""
    import typer

    try:
        typer.run(main)
    except BitMarError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def skip_without_shared_data(path: str | Path) -> None:
    """End with status 0 and the reason if a default path is below the shared data and there is none."""
    if str(path).startswith(str(SHARED)) and not SHARED.is_dir():
        print(f"skipped: no {SHARED}; name the data yourself (--help)")
        raise SystemExit(0)


def _flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", f"{value:,.4g}" if isinstance(value, float) else str(value)))
    return rows


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        lines = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
        return {key.strip(): value.strip() for key, _, value in lines}
    if sys.platform == "darwin":
        return {"model name": _output("sysctl", "-n", "machdep.cpu.brand_string") or ""}
    return {}


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpu() -> str | None:
    """Of PyTorch, if this benchmark has imported it; importing it to ask would falsify what is measured."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    return _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
