"""Photographs to the pixels that the vision tower reads, with Pillow and numpy alone.

The twin of `bitmar.core.image`, which a checkpoint's remote code cannot import; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature


class BitMarImageProcessor(BaseImageProcessor):
    """Squashes a photo to a square, divides by 255 and normalises.

    Args:
        size: pixels per side. image_mean, image_std: per channel, on the scale from 0 to 1.
        resize: only "squash": bicubic with antialiasing, the aspect ratio is not kept.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012  (transformers' own name and type)

    def __init__(
        self,
        size: int = 224,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        resize: str = "squash",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if resize != "squash":
            raise ValueError(f"photos are resized by 'squash', not {resize!r}")
        self.size, self.resize = size, resize
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """pixel_values (B, 3, size, size) float32 of a photo or a list: PIL images, paths, uint8 (H, W[, 3 or 4])."""
        pixels = np.stack([self._pixels(photo) for photo in _flat(images)])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def _pixels(self, photo: Any) -> np.ndarray:
        square = to_rgb(photo).resize((self.size, self.size), Image.Resampling.BICUBIC)
        pixels = np.asarray(square, dtype=np.uint8).astype(np.float32) / np.float32(255)
        pixels = (pixels - np.asarray(self.image_mean, np.float32)) / np.asarray(self.image_std, np.float32)
        return pixels.transpose(2, 0, 1)


def _flat(images: Any) -> list[Any]:
    if not isinstance(images, (list, tuple)):
        return [images]
    return [photo for item in images for photo in _flat(item)]


def to_rgb(photo: Any) -> Image.Image:
    """An upright 8-bit RGB image: transparency laid on white, deeper grey levels brought to 0..255.

    Raises TypeError for what is no photo; Pillow's own errors say when a file cannot be read.
    """
    if isinstance(photo, (str, Path)):
        photo = Image.open(photo)
    elif isinstance(photo, np.ndarray) and photo.dtype == np.uint8:
        photo = Image.fromarray(photo)
    if not isinstance(photo, Image.Image):
        raise TypeError(f"a photo is a PIL image, a path or a uint8 array (H, W, 3), not {type(photo).__name__}")
    photo = ImageOps.exif_transpose(photo)
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):  # `convert` would clip at 255
        levels = np.asarray(photo, dtype=np.float32)
        low, high = (0.0, 65535.0) if photo.mode.startswith("I;16") else (levels.min(), levels.max())
        photo = Image.fromarray(np.rint((levels - low) * (255.0 / max(high - low, 1e-6))).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")
