"""Photographs to the pixels that the vision tower reads, with Pillow and numpy alone.

The twin of `bitmar.core.image`, which a checkpoint's remote code cannot import; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature


class BitMarImageProcessor(BaseImageProcessor):
    """Squashes a photo to a square, divides by 255 and normalises.

    Args:
        size: pixels per side. image_mean, image_std: per channel, on the scale from 0 to 1.
        resize: only "squash": bicubic with antialiasing, the aspect ratio is not kept.
    """

    _auto_class = "AutoImageProcessor"
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
        """pixel_values (B, 3, size, size) float32 of a photo or a list: PIL images, paths, arrays, tensors."""
        pixels = np.stack([self._pixels(photo) for photo in _flat(images)])
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    def _pixels(self, photo: Any) -> np.ndarray:
        square = to_rgb(photo).resize((self.size, self.size), Image.Resampling.BICUBIC)
        pixels = np.asarray(square, dtype=np.uint8).astype(np.float32) / np.float32(255)
        pixels = (pixels - np.asarray(self.image_mean, np.float32)) / np.asarray(self.image_std, np.float32)
        return pixels.transpose(2, 0, 1)


def _flat(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return [photo for item in images for photo in _flat(item)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]  # a batch in one array


def from_array(array: np.ndarray, channels_first: bool) -> Image.Image:
    """An array (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, of 0 to 255 or, in floats, 0 to 1.

    channels_first: which of two readings is meant where both are possible.
    """
    if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
        if not (np.isfinite(array).all() and array.min() >= -0.01 and array.max() <= 1.01):
            raise ValueError(
                "a photo of floats has values from 0 to 1; give levels from 0 to 255 as uint8, and no normalised "
                "pixels: the processor normalises"
            )
        array = np.rint(array.clip(0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.integer) or array.min() < 0 or array.max() > 255:
            raise ValueError(f"a photo's levels are from 0 to 255, as uint8; this array of {array.dtype} has others")
        array = array.astype(np.uint8)
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3, 4), array.shape[-1] in (1, 3, 4)
        if first and (channels_first or not last):
            array = array.transpose(1, 2, 0)
        if array.shape[-1] == 1:
            array = array[..., 0]
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(
            f"a photo's array is (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, not {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def to_rgb(photo: Any) -> Image.Image:
    """An upright 8-bit RGB image: transparency laid on white, deeper grey levels brought to 0..255.

    photo: a PIL image, a path, or an array or tensor (see `from_array`). Raises TypeError for what is no photo;
    Pillow's own errors say when a file cannot be read.
    """
    if isinstance(photo, (str, Path)):
        photo = Image.open(photo)
    elif isinstance(photo, np.ndarray):
        photo = from_array(photo, channels_first=False)
    elif isinstance(photo, torch.Tensor):
        photo = from_array(
            photo.detach().cpu().float().numpy() if photo.is_floating_point() else photo.cpu().numpy(), True
        )
    if not isinstance(photo, Image.Image):
        raise TypeError(
            f"a photo is a PIL image, a path, an array (H, W, 3) or a tensor (3, H, W), not {type(photo).__name__}"
        )
    photo = ImageOps.exif_transpose(photo)
    if photo.mode in ("I", "F") or photo.mode.startswith("I;16"):  # `convert` would clip at 255
        levels = np.asarray(photo, dtype=np.float32)
        low, high = (0.0, 65535.0) if photo.mode.startswith("I;16") else (levels.min(), levels.max())
        photo = Image.fromarray(np.rint((levels - low) * (255.0 / max(high - low, 1e-6))).astype(np.uint8))
    if photo.has_transparency_data:
        photo = photo.convert("RGBA")
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return photo.convert("RGB")
