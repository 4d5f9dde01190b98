"""From whatever a user calls a photograph to the pixels that a vision tower reads."""

from __future__ import annotations

import contextlib
import io
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from bitmar.core.bands import bands_of, jpeg_coefficients
from bitmar.core.errors import ImageError
from bitmar.core.formats import HEAD, no_picture, readable, refuse_raw
from bitmar.core.rgb import join, rgb_of

PhotoSource = str | Path | bytes | IO[bytes] | Image.Image | npt.NDArray[np.generic]

MAX_PIXELS = 64_000_000
_WHOLE = 12_000_000  # pixels up to which a photo is decoded whole whatever its format; above in bands where it can be
_SHRUNK = 24_000_000  # pixels above which it is made smaller on the way
_ROOM = 210_000_000  # bytes that decoding may take: the process stays below 300 MB
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # in Pillow; of other modes 4
# Of its pixels that a decoder makes, the result among them; of other formats 2.
_COPIES = {"PNG": 1, "WEBP": 5, "AVIF": 3}
_MAX_STREAM = 256 << 20  # bytes of a file object
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_photo(source: PhotoSource) -> Image.Image:
    """Read a photograph as an upright 8-bit RGB image.

    `source` is a path or file: URL, the bytes of a file, a file object open for reading bytes (read from where it
    stands to its end), a PIL image, or a uint8 array (H, W), (H, W, 3) or (H, W, 4).
    CMYK, palette and 16-bit images are converted, transparency is laid on white, an animation gives its first
    frame. A photo of more than 24 megapixels comes at half its size or less, each pixel the mean of several.
    Raises ImageError, with the path in it, for all that is no whole picture of up to 64 megapixels, and for an http(s)
    URL, which `fetch_photo` turns into bytes where that is wanted.
    """
    path = source if isinstance(source, (str, Path)) else None
    name = "the photo" if path is None else f"{path!s:.200}"
    try:
        with contextlib.ExitStack() as opened:
            image = _open(source, opened)
            refuse_raw(image, path)
            return _load(image, fresh=not isinstance(source, (Image.Image, np.ndarray)))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: {no_picture(path)}") from error
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


def _open(source: PhotoSource, opened: contextlib.ExitStack) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, Path)):
        file = opened.enter_context(_open_file(path_of(source)))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        file = io.BytesIO(source)
    elif hasattr(source, "read"):
        file = io.BytesIO(_read(source))
    else:
        kind = type(source).__name__
        raise ImageError(f"a photo is a path, bytes, a file object, a PIL image or a uint8 array, not {kind}")
    head = file.read(HEAD)
    if not head:
        raise ImageError("the file is empty" if isinstance(source, (str, Path)) else "no bytes at all")
    file.seek(0)
    return Image.open(file, formats=readable(head))


def _read(file: IO[bytes]) -> bytes:
    data = file.read(_MAX_STREAM + 1)
    if not isinstance(data, bytes):
        raise ImageError("a file object gives text: open the photo with mode 'rb'")
    if len(data) > _MAX_STREAM:
        raise ImageError(f"more than {_MAX_STREAM >> 20} MiB came, which is no photo")
    return data


def path_of(source: str | Path) -> Path:
    """A path, also one in a file: URL. Raises ImageError for an address of the network."""
    scheme = source[:8].partition(":")[0].lower() if isinstance(source, str) else ""
    if scheme in ("http", "https"):
        raise ImageError("an address, which is fetched only where you ask for it: give bitmar.fetch_photo(URL)")
    if scheme != "file":
        return Path(source)
    parts = urlsplit(str(source))
    if parts.netloc not in ("", "localhost"):
        raise ImageError(f"a file: URL names a file of this machine, not one of {parts.netloc!r}")
    from urllib.request import url2pathname  # brings http, email and ssl along: 3 MB that few need

    return Path(url2pathname(parts.path))


def _open_file(path: Path) -> IO[bytes]:
    """Raises ImageError in the system's own words: no such file, no permission, a name too long."""
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            raise ImageError("is a folder, name one photo" if stat.S_ISDIR(kind) else "is no file, name one photo")
        return path.open("rb")
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise ImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _load(image: Image.Image, fresh: bool) -> Image.Image:
    """fresh: only just opened here; a caller's own picture may be decoded already."""
    pixels = image.width * image.height
    _check_size(image.width, image.height)
    orientation = _orientation(image)
    bands = bands_of(image) if isinstance(image, ImageFile) and fresh and pixels > _WHOLE else None
    if bands is not None:
        photo = join(bands, image.mode, image.size, 2 if pixels > _SHRUNK else 1)
    else:
        if isinstance(image, ImageFile) and fresh and pixels > _WHOLE:
            _make_room(image)
        image.load()
        photo = rgb_of(image, 2 if image.width * image.height > _SHRUNK else 1)
    return photo if orientation is None else photo.transpose(orientation)


def _check_size(width: int, height: int) -> None:
    if not width * height:
        raise ImageError(f"a picture of {width}x{height} pixels shows nothing")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{width}x{height} pixels are more than the {MAX_PIXELS // 10**6} megapixels that bitmar reads; make it "
            "smaller first"
        )


def _make_room(image: ImageFile) -> None:
    """Let a large JPEG be decoded at a part of its size. Raises ImageError for what does not fit even so."""
    pixels, kind = image.width * image.height, image.format
    coefficients = jpeg_coefficients(image) if kind == "JPEG" else 0
    if kind == "JPEG":
        for part in (1, 2, 4, 8):
            needed = coefficients + 8 * pixels // part**2
            if needed <= _ROOM and pixels // part**2 <= _SHRUNK:
                image.draft(image.mode, (image.width // part, image.height // part))
                return
    elif isinstance(image, Jpeg2KImageFile):
        image.reduce = 2 if pixels > _SHRUNK else 1  # halvings; whole it takes 20 bytes a pixel, so 6 and 3.2
        return
    else:
        copies = _COPIES.get(kind or "", 2)
        needed = (_PIXEL_BYTES.get(image.mode, 4) * copies + (1 if pixels > _SHRUNK else 4)) * pixels
    if needed > _ROOM:
        raise ImageError(
            f"{image.width}x{image.height} pixels in a {kind} that can only be decoded whole take {needed >> 20} MiB; "
            "make it smaller first, or save it as PNG without interlacing or as baseline JPEG"
        )


def _orientation(image: Image.Image) -> Image.Transpose | None:
    """How the camera was held; a damaged EXIF block says nothing about the pixels."""
    try:
        return _TURNS.get(Image.Image.getexif(image).get(_ORIENTATION, 1))  # of a PNG, its own would decode the photo
    except Exception:  # the EXIF parser has no error of its own
        return None


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise ImageError(
            f"a photo as an array is uint8 (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}"
        )
    _check_size(array.shape[1], array.shape[0])  # before it is copied
    return Image.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)
