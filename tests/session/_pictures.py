"""Made-up photos, and how many episodes the tiny models hold."""

from __future__ import annotations

import numpy as np
from PIL import Image

SLOTS = 8  # of the tiny models


def picture(seed: int, size: tuple[int, int] = (60, 50)) -> Image.Image:
    """Smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
