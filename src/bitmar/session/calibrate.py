"""Teach a packed model how photos in general look to it, so that it knows how much a resemblance is worth.

A memory of one episode cannot tell a familiar photo from a strange one. A thousand training photos can: their keys'
mean and covariance, and how often two of them resemble each other by chance. With these in its file (little more than
4 d^2 bytes), a model's recall is calibrated from the first episode on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bitmar.core.container import Container, write_container
from bitmar.core.errors import DataError
from bitmar.core.tensors import BACKGROUND_MEAN, BACKGROUND_STRANGERS, BACKGROUND_WHITEN, STRANGERS
from bitmar.core.ternary import F32
from bitmar.runtime.cache import ImageTokens
from bitmar.session.recall import Background, KeySpace, whitening
from bitmar.session.session import image_key

LEAST, ENOUGH = 256, 1200  # photos: fewer say nothing of rare resemblances, more change little
_FLOOR = 1e-2  # of the mean variance; chosen on training photos, where 0.003 to 0.03 give the same within a percent


def background(images: Iterable[ImageTokens]) -> Background:
    """From photos that are as different as those that the model will meet. Fewer than `LEAST`: DataError."""
    found = [image_key(image) for image in images]
    if len(found) < LEAST:
        raise DataError(f"{len(found)} photos are too few to tell how rare a resemblance is: give at least {LEAST}")
    keys: F32 = np.stack(found)
    exact = keys.astype(np.float64)
    mean = exact.mean(axis=0)
    covariance = (exact - mean).T @ (exact - mean) / len(exact)
    spread = float(np.trace(covariance)) / len(mean) or 1.0
    whiten = whitening((1 - _FLOOR) * covariance + _FLOOR * spread * np.eye(len(mean)))
    shape = Background(mean.astype(np.float32), whiten.astype(np.float32), np.zeros(STRANGERS, np.float32))
    pairs = KeySpace(keys, shape).among()[np.triu_indices(len(keys), 1)]
    strangers = np.quantile(pairs, 1 - 10 ** (-np.arange(STRANGERS) / 2))
    return Background(shape.mean, shape.whiten, strangers.astype(np.float32))


def with_background(container: Container, known: Background, out: str | Path) -> Path:
    """Write the model with this background in place of any that it has. Another checksum makes it another model."""
    tensors = {
        **container.tensors,
        BACKGROUND_MEAN: known.mean,
        BACKGROUND_WHITEN: known.whiten,
        BACKGROUND_STRANGERS: known.strangers,
    }
    write_container(
        out,
        tensors,
        config=container.config,
        tokenizer_json=container.tokenizer_json,
        vision=container.vision,
        card=container.card,
    )
    return Path(out)
