"""Checks of a tower's configuration as parsed JSON; each raises ConfigError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitmar.core.errors import ConfigError, nearest, told

_SCALES = (1e-9, 1e6)


def need_keys(what: str, values: Mapping[str, Any], wanted: tuple[str, ...]) -> None:
    """All of these keys and no others."""
    for key in values:
        if key not in wanted:
            raise ConfigError(f"unknown {what} key {key!r:.80}{nearest(str(key), wanted)}")
    for key in wanted:
        if key not in values:
            raise ConfigError(f"{what} needs the key {key!r}")


def need_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of these words."""
    if value not in choices:
        hint = nearest(value, choices) if isinstance(value, str) else ""
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {told(value)}{hint}")


def need_whole(name: str, value: Any, low: int, high: int) -> None:
    """A whole number from `low` to `high`; True is none."""
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, not {told(value)}")


def need_scale(name: str, value: Any) -> None:
    """A finite number above 0 that a step of integers may stand for."""
    low, high = _SCALES
    if type(value) not in (int, float) or not low <= value <= high:
        raise ConfigError(f"{name} must lie between {low} and {high}, not {told(value)}")
