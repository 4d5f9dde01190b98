"""JSON from strangers: whatever is not plain, finite and unambiguous is a ValueError that says what is wrong."""

from __future__ import annotations

import json
import re
from typing import Any

DEPTH = 32  # far beyond any sidecar; what is read must also be writable again, from deeper in the stack
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes | str, depth: int = DEPTH) -> Any:
    """The value of a JSON document in UTF-8.

    Raises ValueError, with a reason that fits after "not JSON: " or stands alone, for anything but valid JSON, and
    also for NaN and infinities, a key that comes twice in one object, lone surrogates (UTF-8 has none), numbers beyond
    64 bits and nesting deeper than `depth`.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, object_pairs_hook=unique_keys, parse_constant=_constant, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(value, depth)
    return value


def kind_of(value: object) -> str:
    """The type of a JSON value, in JSON's words: "a number", "null", ..."""
    if value is None:
        return "null"
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "a list"}
    return kinds.get(type(value), "an object")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `object_pairs_hook` of `json.loads`: a key that comes twice is a ValueError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:40]!r} comes twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 64:
        raise ValueError("a number beyond 64 bits")
    return int(digits)


def _check(value: Any, depth: int) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise ValueError("a lone surrogate in a string")
    elif isinstance(value, float):
        if value in (float("inf"), float("-inf")):  # 1e999
            raise ValueError("a number beyond 64 bits")
    elif isinstance(value, list | dict):
        if depth == 0:
            raise ValueError("nested too deeply")
        for item in value:
            _check(item, depth - 1)
        if isinstance(value, dict):
            for item in value.values():
                _check(item, depth - 1)
