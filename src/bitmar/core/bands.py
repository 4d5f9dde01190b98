"""Large photos in bands of rows, straight from the file, so that a decoded photo never exists as a whole.

Pillow decodes all of a picture or nothing. But rows stored as they are can be read where they lie, and a strip of a
TIFF or some scanlines of a PNG make a small file of their own, which Pillow then decodes.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from bitmar.core.errors import ImageError
from bitmar.core.ternary import U8

Bands = Iterator[Image.Image]  # from the top, each as wide as the photo

_BAND = 1 << 20  # pixels, or where the file says otherwise a few times as many
_READ = 1 << 16  # bytes of a compressed file at a time
_RAW_BITS = {"1": 1, "1;I": 1, "L": 8, "P": 8, "RGB": 24}  # of a pixel, where the file does not say how long a row is

_RAW = ("BMP", "PPM", "TIFF")  # an AVIF says "raw" of pixels that it has yet to decode


def bands_of(image: ImageFile) -> Callable[[], Bands] | None:
    """A function that reads an opened, not yet decoded photo band by band, each time it is called; None if impossible.

    PNG without interlacing, rows stored as they are (BMP, PPM, TIFF), and TIFF in strips or tiles.
    """
    if image.width > _BAND:
        return None
    if image.format == "PNG" and not image.info.get("interlace"):
        return lambda: _png_bands(image)
    if image.format in _RAW and _is_raw(image):
        tiles = list(image.tile)  # decoding would empty it
        return lambda: _raw_bands(image, tiles)
    return _tiff_bands(image) if image.format == "TIFF" else None


def _alike(band: Image.Image, image: Image.Image) -> Image.Image:
    """The band with what its pixels mean in the photo."""
    if image.mode == "P" and image.palette is not None:
        rawmode, palette = image.palette.getdata()
        band.putpalette(palette, rawmode)
    if "transparency" in image.info:
        band.info["transparency"] = image.info["transparency"]
    return band


def _file(image: ImageFile) -> IO[bytes]:
    assert image.fp is not None  # it is not decoded yet
    return image.fp


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ImageError("the file is cut off")
    return data


# Rows as they are.


def _is_raw(image: ImageFile) -> bool:
    """Whether the tiles are whole rows, from the top to the bottom."""
    end = 0
    for codec, box, _, args in image.tile:
        if codec != "raw" or box is None or (box[0], box[1], box[2]) != (0, end, image.width):
            return False
        if not _raw_arguments(image, args)[1]:
            return False
        end = box[3]
    return end == image.height


def _raw_arguments(image: ImageFile, args: Any) -> tuple[str, int, int]:
    """How pixels are stored, bytes from row to row (0 where unknown), and 1, or -1 for the last row first."""
    rawmode, stride, direction = (args, 0, 1) if isinstance(args, str) else args
    if not stride:
        bits = _RAW_BITS.get(rawmode, 0)
        if image.format == "TIFF":
            depths = image.tag_v2.get(_DEPTHS, (1,))  # type: ignore[attr-defined]
            bits = sum(depths) if len(depths) > 1 else depths[0] * image.tag_v2.get(_SAMPLES, 1)  # type: ignore[attr-defined]
        stride = -(-image.width * bits // 8)
    return rawmode, stride, direction


def _raw_bands(image: ImageFile, tiles: list[Any]) -> Bands:
    for _, (_, top, width, bottom), offset, args in tiles:
        rawmode, stride, direction = _raw_arguments(image, args)
        step = max(1, _BAND // width)
        for y in range(top, bottom, step):
            rows = min(step, bottom - y)
            _file(image).seek(offset + stride * (y - top if direction > 0 else bottom - y - rows))
            data = _read(_file(image), stride * rows)
            yield _alike(Image.frombytes(image.mode, (width, rows), data, "raw", rawmode, stride, direction), image)


# PNG (https://www.w3.org/TR/png-3/).

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # bytes per pixel: colour type


def _png_bands(image: ImageFile) -> Bands:
    _file(image).seek(len(_SIGNATURE) + 8)
    width, height, depth, colour = struct.unpack(">IIBB", _read(_file(image), 10))
    bits = depth * _CHANNELS[colour]
    row_bytes, pixel_bytes = -(-width * bits // 8), max(1, bits // 8)
    step, above, done = max(1, _BAND // width), bytes(row_bytes), 0
    for scanlines in _inflate(_file(image), row_bytes + 1, step, height):
        raw = _unfilter(scanlines, above, row_bytes, pixel_bytes)
        rows, above = len(raw) // row_bytes, raw[-row_bytes:]
        yield _alike(Image.frombytes(image.mode, (width, rows), raw, "raw", image.tile[0][3]), image)
        done += rows
    if done < height:
        raise ImageError("the file is cut off")


def _inflate(file: IO[bytes], line: int, step: int, height: int) -> Iterator[bytes]:
    """The filtered scanlines of a PNG, `step` at a time."""
    inflater, waiting, left = zlib.decompressobj(), bytearray(), height
    for compressed in _image_data(file):
        while (compressed or inflater.unconsumed_tail) and left:
            waiting += inflater.decompress(inflater.unconsumed_tail + compressed, step * line)
            compressed = b""
            while left and len(waiting) >= line * min(step, left):
                rows = min(step, left)
                yield bytes(waiting[: rows * line])
                del waiting[: rows * line]
                left -= rows
        if not left:
            return


def _image_data(file: IO[bytes]) -> Iterator[bytes]:
    """The contents of a PNG's IDAT chunks, piece by piece."""
    file.seek(len(_SIGNATURE))
    while len(head := file.read(8)) == 8:
        (left,), kind = struct.unpack(">I", head[:4]), head[4:]
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            file.seek(left, io.SEEK_CUR)
        while kind == b"IDAT" and left:
            piece = _read(file, min(left, _READ))
            left -= len(piece)
            yield piece
        file.seek(4, io.SEEK_CUR)  # its checksum; zlib has one of its own


def _unfilter(scanlines: bytes, above: bytes, row_bytes: int, pixel_bytes: int) -> bytes:
    """The bytes of filtered scanlines, by the row above them.

    Filters work byte by byte, with a stride of a pixel. So Pillow undoes them in a PNG of 8-bit colours with as many
    bytes a pixel, whatever these mean; pixels of 6 and 8 bytes are two of 3 and 4.
    """
    lines = np.frombuffer(b"\0" + above + scanlines, np.uint8).reshape(-1, row_bytes + 1)
    if pixel_bytes <= 4:
        return _decode(lines, pixel_bytes).tobytes()
    pixels = lines[:, 1:].reshape(len(lines), -1, 2, pixel_bytes // 2)
    halves = [
        _decode(np.concatenate((lines[:, :1], pixels[:, :, half].reshape(len(lines), -1)), axis=1), pixel_bytes // 2)
        for half in (0, 1)
    ]
    return np.stack([half.reshape(len(half), -1, pixel_bytes // 2) for half in halves], axis=2).tobytes()


def _decode(lines: U8, pixel_bytes: int) -> U8:
    """All rows but the first, which only stands above them."""
    header = struct.pack(">IIBBBBB", (lines.shape[1] - 1) // pixel_bytes, len(lines), 8, _COLOURS[pixel_bytes], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 0)), (b"IEND", b""))
    file = _SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return np.asarray(Image.open(io.BytesIO(file), formats=("PNG",)))[1:]


# TIFF 6.0.

_HEIGHT, _DEPTHS, _COMPRESSION, _SAMPLES, _PLANES = 257, 258, 259, 277, 284
_STRIPS = (273, 279, 278)  # offsets, bytes, rows of each
_TILES = (324, 325, 323)
_TILE_WIDTH = 322
# Size, depth, compression, colours, fill order, predictor, palette, inks, samples, JPEG's tables, YCbCr.
_KEPT = (
    256,
    _DEPTHS,
    _COMPRESSION,
    262,
    266,
    _SAMPLES,
    _PLANES,
    317,
    320,
    _TILE_WIDTH,
    332,
    338,
    339,
    347,
    529,
    530,
    531,
    532,
)
_OLD_JPEG, _UNDEFINED, _LONG = 6, 7, 4


def _tiff_bands(image: ImageFile) -> Callable[[], Bands] | None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    names = _TILES if _TILES[0] in tags else _STRIPS
    offsets, sizes = (tuple(tags.get(name, ())) for name in names[:2])
    unit = tags.get(names[2], image.height)
    across = math.ceil(image.width / tags.get(_TILE_WIDTH, image.width)) if names is _TILES else 1
    lines = math.ceil(image.height / unit) if unit else 0
    if (
        tags.get(_PLANES, 1) != 1
        or tags.get(_COMPRESSION) == _OLD_JPEG
        or not len(offsets) == len(sizes) == lines * across > 0
        or unit * image.width > 4 * _BAND
    ):
        return None
    step = max(1, _BAND // (unit * image.width))

    def bands() -> Bands:
        for line in range(0, lines, step):
            rows = min(step * unit, image.height - line * unit)
            places = slice(line * across, (line + step) * across)
            image_data = [_piece(_file(image), *place) for place in zip(offsets[places], sizes[places], strict=True)]
            band = Image.open(io.BytesIO(_tiff(tags, names, unit, rows, image_data)), formats=("TIFF",))
            band.load()
            yield band

    return bands


def _piece(file: IO[bytes], offset: int, size: int) -> bytes:
    if size > 64 * _BAND:
        raise ImageError("a strip of the file claims more bytes than it can have")
    file.seek(offset)
    return _read(file, size)


def _tiff(tags: Any, names: tuple[int, int, int], unit: int, rows: int, pieces: list[bytes]) -> bytes:
    """A TIFF of these strips or tiles alone, in the byte order of the whole."""
    order = "<" if tags.prefix == b"II" else ">"
    entries: dict[int, bytes | tuple[int, ...]] = {}
    for tag in _KEPT:
        if tag in tags:
            value = tags[tag]
            if not isinstance(value, bytes):
                value = tuple(int(number) for number in (value if isinstance(value, tuple) else (value,)))
            entries[tag] = value
    starts = np.cumsum([8, *map(len, pieces)]).tolist()
    entries |= {_HEIGHT: (rows,), names[0]: tuple(starts[:-1]), names[1]: tuple(map(len, pieces)), names[2]: (unit,)}
    data = b"".join(pieces) + b"\0" * (starts[-1] % 2)
    directory = 8 + len(data)
    extra, table = b"", struct.pack(f"{order}H", len(entries))
    after = directory + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        kind = _UNDEFINED if isinstance(value, bytes) else _LONG
        packed = value if isinstance(value, bytes) else struct.pack(f"{order}{len(value)}I", *value)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", after + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        table += struct.pack(f"{order}HHI", tag, kind, len(value)) + place
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join([magic, struct.pack(f"{order}I", directory), data, table, bytes(4), extra])


# JPEG: baseline files can be decoded at a part of their size; those in several scans are coefficients first.

_FIRST_SCAN, _PROGRESSIVE = 0xDA, (0xC2, 0xC6, 0xCA, 0xCE)
_NO_LENGTH = (0x01, *range(0xD0, 0xDA))


def jpeg_coefficients(image: ImageFile) -> int:
    """Bytes that the coefficients of an opened JPEG take while it is decoded: 0 where one scan holds all colours."""
    layers = image.layer  # type: ignore[attr-defined]  # (number, horizontal, vertical, table) of each colour
    widest, tallest = (max(layer[axis] for layer in layers) for axis in (1, 2))
    if not _in_scans(_file(image), len(layers)):
        return 0
    shares = sum(layer[1] * layer[2] / (widest * tallest) for layer in layers)
    return int(2 * image.width * image.height * shares)


def _in_scans(file: IO[bytes], colours: int) -> bool:
    file.seek(2)
    while (mark := file.read(2)) and mark[0] == 0xFF:
        if mark[1] in _PROGRESSIVE:
            return True
        if mark[1] in _NO_LENGTH:
            continue
        if mark[1] == 0xFF:  # filling
            file.seek(-1, io.SEEK_CUR)
            continue
        (length,) = struct.unpack(">H", _read(file, 2))
        if mark[1] == _FIRST_SCAN:
            return _read(file, 1)[0] < colours
        file.seek(length - 2, io.SEEK_CUR)
    return True  # not as the standard has it: the worst is assumed
