"""Where data lies: said once, by an environment variable; recipes and commands name no folder of one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError

VARIABLE = "BITMAR_DATA"

_NAME = re.compile(r"\$(?:(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")


def data_folder() -> Path:
    """The folder that $BITMAR_DATA names. Not set, or no folder: ConfigError."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise ConfigError(f"where is the data? Name its folder with --data, or set {VARIABLE} to it")
    if not Path(folder).is_dir():
        raise ConfigError(f"{VARIABLE} is {folder}, which is no folder")
    return Path(folder)


def data_files(pattern: str) -> list[str]:
    """[the glob pattern below $BITMAR_DATA], for what takes patterns; [] if nothing there matches or it is not set."""
    folder = os.environ.get(VARIABLE)
    return [str(Path(folder) / pattern)] if folder and any(Path(folder).glob(pattern)) else []


def expand(value: Any, defaults: Mapping[str, str] | None = None) -> Any:
    """`value`, a document of mappings, lists and texts, with each $NAME or ${NAME} in its texts filled in.

    The environment goes before `defaults`. A name that neither has: ConfigError.
    """
    if isinstance(value, str):
        return _NAME.sub(lambda match: _value(match["bare"] or match["braced"], defaults or {}), value)
    if isinstance(value, Mapping):
        return {key: expand(item, defaults) for key, item in value.items()}
    return [expand(item, defaults) for item in value] if isinstance(value, list) else value


def _value(name: str, defaults: Mapping[str, str]) -> str:
    found = os.environ.get(name) or defaults.get(name)
    if not found:
        raise ConfigError(f"${name} is not set: set it in the environment, or under `roots` of the recipe")
    return found
