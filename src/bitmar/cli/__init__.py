"""The `bitmar` command. Commands import what they need when they run: help is instant, `caption` never sees torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from bitmar.cli.app import ON_BEGIN, app

# In the order of the help; each registers its commands when it is imported.
_MODULES = (
    "caption",
    "ask",
    "text",
    "read",
    "memory",
    "watch",
    "serve",
    "engine",
    "evaluate",
    "report",
    "plot",
    "training",
    "prepare",
    "adapt",
    "models",
    "hub",
    "tower",
    "calibrate",
    "finetune",
)
for _name in _MODULES:
    import_module(f"bitmar.cli.{_name}")


def main(on_begin: Callable[[], object] | None = None) -> None:
    """Parse the command line and run it: status 0 done, 1 some photos skipped, 2 an error, 130 stopped by Ctrl-C.

    on_begin: called when all is parsed, before the command runs.
    """
    app(obj={ON_BEGIN: on_begin} if on_begin else None)
