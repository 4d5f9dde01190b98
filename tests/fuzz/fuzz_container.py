"""Fuzzes the reader of `.bitmar` files and the engine behind it. Arguments are libFuzzer's; see `make fuzz`.

What opens is run: whatever the numbers in it, a model that passed validation must answer. A file that is refused
ends in a BitMarError; any other exception, and any crash, is a finding. The checksum is left out of account, because
an attacker can compute one.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import numpy as np
import seeds

from bitmar.core.container import Container, open_container
from bitmar.core.errors import BitMarError
from bitmar.runtime.api import BitMar

_MAX_BYTES = 1 << 16
_WORK = 1 << 22  # a file may ask for much work with few bytes, such as a large picture: slow is no finding
_ODD_VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 64, 255, 1 << 15, 1 << 31, 1 << 63, 10**30, 0.5, -0.0, 1e-45, 1e308),
    *(float("inf"), float("nan"), None, True, False, "", "x", "é\0", "gelu", "off", "F32", "I8", "U8", "BF16"),
    *([], {}, [1], [2, 3], [1] * 100),
)
_ODD_FLOATS = (0.0, -0.0, 1e-45, 1e-30, -1.0, 3e38, -3e38)
_NO_NUMBERS = (float("inf"), float("-inf"), float("nan"))

Header = dict[str, Any]


def one_input(data: bytes, path: Path) -> None:
    path.unlink(missing_ok=True)  # a new file each time: the last one may still be mapped
    path.write_bytes(data)
    try:
        container = open_container(path, verify=False)
        if _work(container) < _WORK:
            _exercise(BitMar(container))
    except BitMarError:
        return


def _work(container: Container) -> int:
    config = container.config
    tower = container.vision["size"] ** 2 * 64 if config.vision_tower else 0
    ring = (config.attention_sinks + config.attention_window) * config.hidden_size
    return tower + ring + config.vision_grid**2 * config.vision_dim


def _exercise(model: BitMar) -> None:
    config = model.config
    if config.vision_tower:
        image = model.encode_image(np.full((9, 7, 3), 99, np.uint8))
    else:
        image = model.encode_image(features=np.full((config.vision_grid**2, config.vision_dim), 0.1, np.float32))
    model.caption(image, max_tokens=4)
    model.complete("ab", image, max_tokens=3, temperature=0.7, seed=1)
    model.complete("a", max_tokens=3, beams=2)
    model.score("abcabc", image)
    if config.memory_integration != "off":
        model.complete("c", memory=model.remember("abcab", image), max_tokens=2)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mostly a change that leaves the file well-formed, since random bytes seldom get past its JSON."""
    rng = random.Random(seed)
    try:
        header, body = _split(data)
    except (ValueError, RecursionError):
        return atheris.Mutate(data, max_size)
    change = rng.choice([_anywhere, _metadata, _metadata, _tensor, _floats, _floats, _contents, _contents])
    return change(header, body, rng, max_size) if body else atheris.Mutate(data, max_size)


def _anywhere(header: Header, body: bytes, _: random.Random, max_size: int) -> bytes:
    return atheris.Mutate(_join(header, body), max_size)


def _metadata(header: Header, body: bytes, rng: random.Random, _: int) -> bytes:
    """Twist one value of one of the metadata's texts, which are JSON themselves."""
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and metadata:
        key = rng.choice(sorted(metadata))
        try:
            metadata[key] = json.dumps(_twist(json.loads(metadata[key]), rng))
        except (TypeError, ValueError, RecursionError):
            metadata[key] = str(rng.choice(_ODD_VALUES))
    return _join(header, body)


def _tensor(header: Header, body: bytes, rng: random.Random, _: int) -> bytes:
    """Twist a tensor's type, shape or place, or its being there at all."""
    return _join(_twist(header, rng), body)


def _floats(header: Header, body: bytes, rng: random.Random, _: int) -> bytes:
    changed, values = bytearray(body), _NO_NUMBERS if rng.random() < 0.1 else _ODD_FLOATS
    if len(body) >= 4:
        for _again in range(rng.randint(1, 8)):
            struct.pack_into("<f", changed, rng.randrange(len(body) // 4) * 4, rng.choice(values))
    return _join(header, bytes(changed))


def _contents(header: Header, body: bytes, rng: random.Random, _: int) -> bytes:
    start = rng.randrange(len(body))
    piece = body[start : start + 64]
    piece = atheris.Mutate(piece, len(piece)).ljust(len(piece), b"\0")
    return _join(header, body[:start] + piece + body[start + len(piece) :])


def _twist(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one thing in it replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        if rng.random() < 0.05:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _twist(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], _twist(value[place], rng), *value[place + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice((-2, -1, 1, 2, value, 3 * value))
    return rng.choice(_ODD_VALUES)


def _split(data: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, data[8 + length :]


def _join(header: Header, body: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def main() -> None:
    warnings.simplefilter("ignore")  # numpy on overflow: such numbers are what this is about
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        good, path = Path(folder, "seeds"), Path(folder, "input.bitmar")
        good.mkdir()
        seeds.write_models(good)
        options = [f"-max_len={_MAX_BYTES}", "-rss_limit_mb=2048", "-timeout=60"]
        target: Callable[[bytes], None] = lambda data: one_input(data, path)  # noqa: E731
        atheris.instrument_all()  # its import hook would not get past that of an editable install
        atheris.Setup([*sys.argv, str(good), *options], target, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
