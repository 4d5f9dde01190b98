"""Captions for photographs from a ternary model of a few megabytes, offline and without PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitmar.api import BitMar, load
    from bitmar.core.errors import (
        BitMarError,
        ConfigError,
        DataError,
        DependencyError,
        FormatError,
        ImageError,
        MemoryBusyError,
        MemoryFileError,
        OutputError,
        SourceError,
        TokenizerError,
    )
    from bitmar.core.fetch import fetch_photo
    from bitmar.generation import Generation
    from bitmar.runtime.options import GenerationOptions
    from bitmar.session.session import Session

__version__ = "0.2.0"
__all__ = [
    "BitMar",
    "BitMarError",
    "ConfigError",
    "DataError",
    "DependencyError",
    "FormatError",
    "Generation",
    "GenerationOptions",
    "ImageError",
    "MemoryBusyError",
    "MemoryFileError",
    "OutputError",
    "Session",
    "SourceError",
    "TokenizerError",
    "__version__",
    "fetch_photo",
    "load",
]

_HOMES = {
    "BitMar": "api",
    "Generation": "generation",
    "GenerationOptions": "runtime.options",
    "Session": "session.session",
    "fetch_photo": "core.fetch",
    "load": "api",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is first asked for: the command line prints its help without the engine."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"bitmar.{_HOMES.get(name, 'core.errors')}"), name)
