"""The reader of `.bitmar` files and the engine after it.

What opens is run: whatever the numbers in it, a model that passed validation must answer. The checksum is left out of
account, because an attacker can compute one.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.api import BitMar
from bitmar.core.container import Container, open_container

from . import seeds
from .changes import ODD_VALUES, Raw, twist

_WORK = 1 << 22  # a file may ask for much work with few bytes, such as a large picture: slow is no finding
_ODD_FLOATS = (0.0, -0.0, 1e-45, 1e-30, -1.0, 3e38, -3e38)
_NO_NUMBERS = (float("inf"), float("-inf"), float("nan"))

Header = dict[str, Any]


class ContainerTarget:
    max_bytes = 1 << 16

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input.bitmar"
        seeds.write_models(folder)
        self.seeds = [path.read_bytes() for path in sorted(folder.glob("*.bitmar"))]

    def one_input(self, data: bytes) -> None:
        self._path.unlink(missing_ok=True)  # a new file each time: the last one may still be mapped
        self._path.write_bytes(data)
        container = open_container(self._path, verify=False)
        if _work(container) < _WORK:
            _exercise(BitMar(container))

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        """Mostly a change that leaves the file well-formed, since random bytes seldom get past its JSON."""
        try:
            header, body = _split(data)
        except (ValueError, RecursionError):
            return raw(data)
        if not body:
            return raw(data)
        kind = rng.randrange(8)
        if kind == 0:
            return raw(data)
        if kind <= 2:
            return _join(_metadata(header, rng), body)
        if kind == 3:
            return _join(twist(header, rng), body)  # a tensor's type, shape or place, or its being there at all
        if kind <= 5:
            return _join(header, _floats(body, rng))
        start = rng.randrange(len(body))
        piece = body[start : start + 64]
        piece = raw(piece)[: len(piece)].ljust(len(piece), b"\0")
        return _join(header, body[:start] + piece + body[start + len(piece) :])


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


def _metadata(header: Header, rng: random.Random) -> Header:
    """Twist one value of one of the metadata's texts, which are JSON themselves."""
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and metadata:
        key = rng.choice(sorted(metadata))
        try:
            metadata[key] = json.dumps(twist(json.loads(metadata[key]), rng))
        except (TypeError, ValueError, RecursionError):
            metadata[key] = str(rng.choice(ODD_VALUES))
    return header


def _floats(body: bytes, rng: random.Random) -> bytes:
    changed, values = bytearray(body), _NO_NUMBERS if rng.random() < 0.1 else _ODD_FLOATS
    if len(body) >= 4:
        for _ in range(rng.randint(1, 8)):
            struct.pack_into("<f", changed, rng.randrange(len(body) // 4) * 4, rng.choice(values))
    return bytes(changed)


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
