"""Every error a user can meet. Each carries one sentence: what is wrong and what to do next."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


class BitMarError(Exception):
    """Base of all errors raised on purpose; the command line prints its message and exits with status 2."""


class ConfigError(BitMarError):
    """A configuration or recipe has an unknown key, a wrong type or a value out of range."""


class ImageError(BitMarError):
    """A photograph cannot be read: broken, truncated, too large, or no image at all."""


class SourceError(BitMarError):
    """The source to watch does not exist, or is no folder, video or camera."""


class FormatError(BitMarError):
    """A `.bitmar` file or a checkpoint is damaged, hostile, or of another version."""


class DataError(BitMarError):
    """Training or evaluation data is missing or malformed."""


class OutputError(BitMarError):
    """A result cannot be written: the disk is full, writing is not allowed, or another process writes there."""


class TokenizerError(BitMarError):
    """A tokenizer cannot be found, read or trained."""


class MemoryFileError(BitMarError):
    """A session-memory (`.mem`) file is damaged or belongs to another model."""


class MemoryBusyError(MemoryFileError):
    """Another program is writing this memory: the same call may succeed a moment later."""


class DependencyError(BitMarError):
    """An optional package is missing; the message names the extra that brings it."""


# Of either engine, where weights overflow float32.
NOT_FINITE = (
    "this model computes numbers that are not finite: its file is damaged or its training diverged, get another"
)


def nearest(name: str, choices: Iterable[str]) -> str:
    """A hint for a misspelt `name`: " (did you mean 'x'?)", or "" if none of `choices` is close."""
    matches = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def told(value: object, most: int = 80) -> str:
    """A value as a message shows it: its beginning, and in words what Python writes down for nobody."""
    try:
        return f"{value!r:.{most}}"
    except ValueError:  # a whole number of more than 4,300 digits
        return "a number of thousands of digits"


def pip_install(extra: str) -> str:
    """The command that brings an extra: by the project's name, or by its folder where pip installed it from a clone."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    about = _installed_from()
    if not about.get("url", "").startswith("file:") or "dir_info" not in about:
        return f"pip install 'bitmar[{extra}]'"
    folder = url2pathname(urlsplit(about["url"]).path)
    editable = "--editable " if about["dir_info"].get("editable") else ""
    return f"pip install {editable}'{folder}[{extra}]'"


def _installed_from() -> dict[str, Any]:
    """Pip's record of the folder or address that this package was installed from (PEP 610); {} for an index."""
    from importlib.metadata import Distribution, PackageNotFoundError

    try:
        noted = Distribution.from_name("bitmar").read_text("direct_url.json")
    except PackageNotFoundError:  # run from its source
        return {}
    return dict(json.loads(noted)) if noted else {}
