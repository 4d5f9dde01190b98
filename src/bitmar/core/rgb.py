"""Pixels of any kind to 8-bit RGB, band by band, so that no more than the result stands in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from bitmar.core.errors import ImageError

Bands = Callable[[], Iterator[Image.Image]]  # rows from the top, each as wide as the picture; may be read twice

_ROWS = 1 << 20  # pixels of a band
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def rgb_of(image: Image.Image, shrink: int = 1) -> Image.Image:
    """A decoded picture in RGB: transparency on white, more than 8 bits scaled to 8; shrunk as in `join`."""
    if image.mode == "RGB" and shrink == 1 and not image.has_transparency_data:
        return image
    step = max(1, _ROWS // image.width)

    def bands() -> Iterator[Image.Image]:
        for y in range(0, image.height, step):
            yield image.crop((0, y, image.width, min(y + step, image.height)))

    return join(bands, image.mode, image.size, shrink)


def join(bands: Bands, mode: str, size: tuple[int, int], shrink: int = 1) -> Image.Image:
    """The bands of a picture of this mode and size as one in RGB.

    shrink: each square of `shrink` pixels a side becomes its mean; at the right and lower edge what there is of it.
    """
    levels = _range(bands) if mode in ("I", "F") else (0.0, 65535.0)
    joined = Image.new("RGB", (-(-size[0] // shrink), -(-size[1] // shrink)))
    rest, y = None, 0  # rows that make no whole square yet; where the next ones go
    for band in bands():
        rgb = _to_rgb(band, levels)
        if rest is not None:
            rgb = _stack(rest, rgb)
        whole = rgb.height // shrink * shrink
        rest = rgb.crop((0, whole, rgb.width, rgb.height)) if whole < rgb.height else None
        if whole:
            joined.paste(rgb.crop((0, 0, rgb.width, whole)).reduce(shrink) if shrink > 1 else rgb, (0, y))
            y += whole // shrink
    if rest is not None:
        joined.paste(rest.reduce(shrink), (0, y))
    return joined


def _stack(upper: Image.Image, lower: Image.Image) -> Image.Image:
    both = Image.new("RGB", (upper.width, upper.height + lower.height))
    both.paste(upper)
    both.paste(lower, (0, upper.height))
    return both


def _to_rgb(image: Image.Image, levels: tuple[float, float]) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image, *levels)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _range(bands: Bands) -> tuple[float, float]:
    """The lowest and highest level of a picture whose levels have no fixed scale."""
    low, high = np.inf, -np.inf
    for band in bands():
        levels = np.asarray(band, dtype=np.float32)
        if not np.isfinite(levels).all():
            raise ImageError("the picture has pixels that are not finite numbers")
        low, high = min(low, float(levels.min())), max(high, float(levels.max()))
    return low, high


def _to_8_bit(image: Image.Image, low: float, high: float) -> Image.Image:
    """Grey levels to 0..255, which `convert` would clip: 16-bit by its scale, others by their own range."""
    levels = np.asarray(image, dtype=np.float32)
    # By halves, because the distance of two levels may overflow.
    scaled = (levels * np.float32(0.5) - np.float32(low / 2)) * np.float32(510.0 / max(high - low, 1e-6))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
