"""Captions for photographs from a ternary model of a few megabytes, offline and without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitmar.api import BitMar, load
    from bitmar.core.fetch import fetch_photo
    from bitmar.session.session import Session

__version__ = "0.2.0"
__all__ = ["BitMar", "Session", "__version__", "fetch_photo", "load"]


def __getattr__(name: str) -> Any:
    """Import the engine when it is first asked for: the command line prints its help without it."""
    if name in ("BitMar", "load"):
        from bitmar import api

        return getattr(api, name)
    if name == "fetch_photo":
        from bitmar.core.fetch import fetch_photo

        return fetch_photo
    if name == "Session":
        from bitmar.session.session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
