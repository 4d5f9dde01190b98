"""Random views of a photo: resized crop, mirror image, light colour changes.

Works on decoded photos (uint8), with numpy's generator as the only source of chance, so a view is a pure
function of (photo, generator state) and no torch is needed to make one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class ViewRange:
    """The ranges of random augmentation.

    `area`: share of the photo that the crop covers; `ratio`: width / height of the crop, log-uniform; `flip`:
    probability of mirroring; `colour`: brightness, contrast and saturation are each scaled by 1 +- colour.
    """

    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    flip: float = 0.5
    colour: float = 0.15


def view_rng(seed: int, key: str, view: int) -> np.random.Generator:
    """The generator of view `view` of photo `key`: independent of the order in which photos are visited."""
    digest = hashlib.blake2b(f"{seed}\0{key}\0{view}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def random_view(photo: np.ndarray, rng: np.random.Generator, size: int, ranges: ViewRange | None = None) -> np.ndarray:
    """A random view of `photo`: uint8 (H, W, 3) -> uint8 (size, size, 3)."""
    ranges = ranges or ViewRange()
    box = _crop_box(photo.shape[1], photo.shape[0], rng, ranges)
    view = Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(view)
    if rng.random() < ranges.flip:
        pixels = pixels[:, ::-1]
    brightness, contrast, saturation = 1.0 + ranges.colour * rng.uniform(-1.0, 1.0, 3)
    if ranges.colour > 0:
        pixels = _recolour(pixels, brightness, contrast, saturation)
    return np.ascontiguousarray(pixels)


def _crop_box(
    width: int, height: int, rng: np.random.Generator, ranges: ViewRange
) -> tuple[float, float, float, float]:
    area = width * height * rng.uniform(*ranges.area)
    ratio = math.exp(rng.uniform(math.log(ranges.ratio[0]), math.log(ranges.ratio[1])))
    crop_width = min(float(width), math.sqrt(area * ratio))
    crop_height = min(float(height), area / crop_width)
    left = rng.uniform(0.0, width - crop_width)
    top = rng.uniform(0.0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def _recolour(pixels: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """All three changes are affine in the colours, so they fold into one 3x3 matrix and one offset."""
    grey = np.outer(np.ones(3, np.float32), _LUMA)  # colour -> its luma, in every channel
    matrix = brightness * contrast * (saturation * np.eye(3, dtype=np.float32) + (1.0 - saturation) * grey)
    mean = float(pixels.reshape(-1, 3).mean(axis=0, dtype=np.float64) @ _LUMA)
    offset = brightness * (1.0 - contrast) * mean  # contrast turns about the mean luma
    changed = pixels.astype(np.float32) @ matrix.T.astype(np.float32) + np.float32(offset + 0.5)
    clipped: np.ndarray = np.clip(changed, 0.0, 255.0)
    return clipped.astype(np.uint8)
