"""Pictures of nothing: noise, plain colours, gradients, stripes, boards and pages of text.

Whatever a caption says of them is wrong, so they teach a model when to doubt itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

_SIZE = 256


def nothing(count: int = 120, seed: int = 0) -> Iterator[Image.Image]:
    """`count` pictures, RGB, of all kinds in turn."""
    rng = np.random.default_rng(seed)
    kinds = (_noise, _blobs, _plain, _gradient, _stripes, _board, _page)
    for number in range(count):
        yield kinds[number % len(kinds)](rng)


def _noise(rng: np.random.Generator) -> Image.Image:
    shape = (_SIZE, _SIZE, 3) if rng.random() < 0.5 else (_SIZE, _SIZE)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).convert("RGB")


def _blobs(rng: np.random.Generator) -> Image.Image:
    side = int(rng.integers(2, 24))
    small = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    return small.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)


def _plain(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (_SIZE, _SIZE), _colour(rng))


def _gradient(rng: np.random.Generator) -> Image.Image:
    first, last = np.array(_colour(rng), float), np.array(_colour(rng), float)
    line = first + (last - first) * np.linspace(0, 1, _SIZE)[:, None]
    return _turned(np.broadcast_to(line, (_SIZE, _SIZE, 3)).astype(np.uint8), rng)


def _stripes(rng: np.random.Generator) -> Image.Image:
    which = np.arange(_SIZE) // int(rng.integers(3, 40)) % 2
    colours = np.array([_colour(rng), _colour(rng)], np.uint8)
    return _turned(np.broadcast_to(colours[which], (_SIZE, _SIZE, 3)), rng)


def _board(rng: np.random.Generator) -> Image.Image:
    step = np.arange(_SIZE) // int(rng.integers(5, 60))
    colours = np.array([_colour(rng), _colour(rng)], np.uint8)
    return Image.fromarray(colours[(step[:, None] + step) % 2])


def _page(rng: np.random.Generator) -> Image.Image:
    page, line = Image.new("RGB", (_SIZE, _SIZE), "white"), int(rng.integers(9, 20))
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz    "))
    for top in range(line, _SIZE - line, line):
        ImageDraw.Draw(page).text((12, top), "".join(rng.choice(letters, int(rng.integers(20, 40)))), fill="black")
    return page


def _turned(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(np.rot90(pixels, int(rng.integers(4))).copy())


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue
