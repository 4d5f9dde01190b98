"""The way from the bytes of a photo to a tower's input. Whatever is no photo ends in an ImageError."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import PIL.Image

from bitmar.core.image import load_photo, preprocess

from . import seeds
from .changes import Raw


class PhotoTarget:
    max_bytes = 4096

    def __init__(self, folder: Path) -> None:
        logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it comments on broken files
        PIL.Image.init()  # all its formats, or they would be imported after the instrumentation
        seeds.write_photos(folder)
        self.seeds = [path.read_bytes() for path in sorted(folder.iterdir())]

    def one_input(self, data: bytes) -> None:
        pixels = preprocess(load_photo(data), size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        assert pixels.shape == (3, 32, 32) and -3 < pixels.min() <= pixels.max() < 3

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        del rng
        return raw(data)
