"""Ways to change an input at random: its bytes, or one thing in a JSON value that stays well-formed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Raw = Callable[[bytes], bytes]  # a change of bytes that knows nothing of what they mean: libFuzzer's, or `scramble`

ODD_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 64, 255, 1 << 15, 1 << 31, 1 << 32, 1 << 63, 10**30, 0.5, -0.0, 1e-45, 1e-40, 1e308),
    *(
        float("inf"),
        float("nan"),
        None,
        True,
        False,
        "",
        "x",
        "é\0",
        "\ud800",
        "gelu",
        "off",
        "F32",
        "I8",
        "U8",
        "BF16",
    ),
    *([], {}, [1], [2, 3], [1] * 100, {"a": 1}, "{a,b", "../x", "/", "x" * 5000),
)


def scramble(data: bytes, rng: random.Random) -> bytes:
    """A few bytes replaced, removed, doubled or set to an extreme: what libFuzzer does, in plain Python."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64, 512))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at : at + length] = rng.randbytes(min(length, len(changed) - at))
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"9")) * min(length, len(changed) - at)
        elif at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


def twist(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one thing in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value, key=str))
        if rng.random() < 0.05:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: twist(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], twist(value[place], rng), *value[place + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-2, -1, 1, 2, value, 3 * value))
    return rng.choice(ODD_VALUES)
