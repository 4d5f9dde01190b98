"""From whatever a user calls a photograph to the pixels that a vision tower reads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from bitmar.core.errors import ImageError

PhotoSource = str | Path | bytes | Image.Image | npt.NDArray[np.generic]

MAX_PIXELS = 64_000_000  # a decoded photo of this size takes 192 MB; a small board has no more to give
# Named, because Pillow would also open EPS (which starts Ghostscript) and much that no camera writes.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def load_photo(source: PhotoSource) -> Image.Image:
    """Read a photograph as an upright 8-bit RGB image.

    `source` is a path, the bytes of a file, a PIL image, or a uint8 array (H, W), (H, W, 3) or (H, W, 4).
    CMYK, palette and 16-bit images are converted, transparency is laid on white, an animation gives its first
    frame. Raises ImageError, with the path in it, for all that is no whole picture of up to 64 megapixels.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the photo"
    try:
        image = _open(source, name)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"{name}: {image.width}x{image.height} pixels are more than the "
                f"{MAX_PIXELS // 10**6} megapixels that bitmar reads; make it smaller first"
            )
        image.load()
        return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture in a format bitmar reads ({', '.join(_FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: refused as a decompression bomb: {error}") from error
    except Exception as error:  # Pillow's decoders meet a broken file with almost any exception
        raise ImageError(f"{name}: broken or truncated picture ({error})") from error


def to_square(photo: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Squash an RGB `photo` to uint8 (size, size, 3), bicubic, antialiased; the aspect ratio is not kept."""
    return np.asarray(photo.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)


def preprocess(
    photo: Image.Image, *, size: int, mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    """The input of a vision tower: squashed, divided by 255, normalised; float32 (3, size, size)."""
    return normalize(to_square(photo, size), mean=mean, std=std)


def normalize(photo: npt.NDArray[np.uint8], *, mean: Sequence[float], std: Sequence[float]) -> npt.NDArray[np.float32]:
    """A square photo, uint8 (S, S, 3), divided by 255, less the mean, divided by std; float32 (3, S, S)."""
    pixels = photo.astype(np.float32) / np.float32(255)
    pixels = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _open(source: PhotoSource, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise ImageError(f"{name}: no bytes at all")
        return Image.open(io.BytesIO(source), formats=_FORMATS)
    if not isinstance(source, (str, Path)):
        kind = type(source).__name__
        raise ImageError(f"a photo is a path, bytes, a PIL image or a uint8 array, not {kind}")
    path = Path(source)
    if not path.is_file():
        raise ImageError(f"{name}: is a folder, name one photo" if path.is_dir() else f"{name}: no such file")
    if not path.stat().st_size:
        raise ImageError(f"{name}: the file is empty")
    return Image.open(path, formats=_FORMATS)


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ImageError(
            f"a photo as an array is uint8 (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}"
        )
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)


def _upright(image: Image.Image) -> Image.Image:
    """Turn by the camera's EXIF orientation; a damaged EXIF block says nothing about the pixels."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the EXIF parser has no error of its own
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey levels to 0..255, which `convert` would clip: 16-bit by its scale, others by their own range."""
    levels = np.asarray(image, dtype=np.float32)
    if not np.isfinite(levels).all():
        raise ImageError("the picture has pixels that are not finite numbers")
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else (levels.min(), levels.max())
    scaled = (levels - low) * (255.0 / max(high - low, 1e-6))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
