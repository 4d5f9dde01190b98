"""The layout of a `.mem` file (docs/memory.md), and the values that go in and come out."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bitmar.core.ternary import F32

FORMAT_VERSION = 2  # 1 had no seals; it is read, and rewritten before the first write
PAGE = 4096
TEXT_BYTES, LOST_BYTES = 512, 120
MAX_SLOTS = 1 << 20
MAX_TIME = 2.5e11  # seconds since 1970: the year 9892
MAX_SEQUENCE = (1 << 32) - 1
COLUMNS = ("value", "image", "text", "record")

MAGIC = b"BITMAR\0M"
MAKING = b"BITMAR\0U"  # of a file that is being made: how many slots it will have, and zeros after it
HEADER = struct.Struct("<8sIIIIII64sd")  # magic, version, slots, three widths, text bytes, model's checksum, time made
CRC = struct.Struct("<I")
LOST = struct.Struct("<d")
USE = struct.Struct("<II")
ENTRY = np.dtype(
    [
        ("sequence", "<u8"), ("slot", "<u4"), ("flags", "<u4"), ("time", "<f8"), ("photo", "<u8"),
        ("live", "<u4"), ("text_bytes", "<u2"), ("lost_bytes", "<u2"), ("checksums", "<u4", 4), ("pad", "<u4"),
        ("checksum", "<u4"),
    ]
)  # fmt: skip
LIVE, IMAGE, TEXT, CUT, HASH = 1, 2, 4, 8, 16  # an entry without LIVE says that its slot was forgotten

Ints = npt.NDArray[np.int64]


class Shape(NamedTuple):
    """Numbers of slots and of values in the three vectors of a slot."""

    slots: int
    value: int
    image: int
    text: int


class Lost(NamedTuple):
    """An episode that was overwritten: the beginning of its text, and when it was written (seconds since 1970)."""

    text: str
    time: float


@dataclass(frozen=True, slots=True)
class Episode:
    """Something that was remembered.

    time: seconds since 1970. photo: hash of the photo's thumbnail, 16 hexadecimal digits; None without a photo. usage:
    1 is just used; the least used is overwritten first. cut: the text was too long for its record and ends early.
    lost: what this one has overwritten. change: what the `remember` that returned it has done; None from elsewhere.
    """

    slot: int
    text: str
    time: float
    photo: str | None = None
    usage: float = 1.0
    cut: bool = False
    lost: Lost | None = None
    change: Literal["new", "updated", "unchanged"] | None = None


class Vectors(NamedTuple):
    """value (C,): what the model reads. image (w,), text (C,): keys to recall by, None where there is none."""

    value: F32
    image: F32 | None
    text: F32 | None


class Layout:
    """Where the parts of a file begin; all of them on a page.

    seals: of the two that announce a write, in turns, and of the one that closes it; () in version 1. columns: name ->
    (begin, bytes a cell). head: bytes before the columns.
    """

    def __init__(self, shape: Shape, version: int = FORMAT_VERSION) -> None:
        self.version, self.cells = version, shape.slots + 1
        self.seals: tuple[int, ...] = () if version == 1 else (PAGE, 2 * PAGE, 3 * PAGE)
        widths = (2 * shape.value, 2 * shape.image, 2 * shape.text, TEXT_BYTES + LOST.size + LOST_BYTES)
        sizes = [ENTRY.itemsize * self.cells, USE.size * shape.slots, *(width * self.cells for width in widths)]
        first = PAGE * (1 + len(self.seals))
        starts = np.cumsum([first, *(-(-size // PAGE) * PAGE for size in sizes)]).tolist()
        self.directory, self.uses, *begins, self.size = starts
        self.columns = dict(zip(COLUMNS, zip(begins, widths, strict=True), strict=True))
        self.head = begins[0]


class Seal(NamedTuple):
    """The directory after one write, to be checked against the one in the file.

    It is written twice, in pages of their own: before the write's entry, and after. sequence, live: of the write: its
    number, and the slots that hold an episode. cell: where its entry stands. others: CRC-32 of the directory with that
    entry as zeros. entry: the entry's checksum.
    """

    sequence: int
    live: int
    cell: int
    others: int
    entry: int

    def pack(self) -> bytes:
        """28 bytes, the last four of them the CRC-32 of the others."""
        body = _SEAL.pack(*self)
        return body + CRC.pack(zlib.crc32(body))

    @classmethod
    def read(cls, raw: bytes, start: int) -> Seal | None:
        """None where there is none, or a damaged one."""
        body = raw[start : start + _SEAL.size]
        if len(body) < _SEAL.size or raw[start + _SEAL.size :][: CRC.size] != CRC.pack(zlib.crc32(body)):
            return None
        return cls(*_SEAL.unpack(body))

    @classmethod
    def of(cls, entries: Any, cell: int, entry: Any) -> Seal:
        """For the directory `entries` with this entry in this cell."""
        return cls(
            int(entry["sequence"]), int(entry["live"]), cell, others_checksum(entries, cell), int(entry["checksum"])
        )


_SEAL = struct.Struct("<QIIII")


def head_bytes(page: bytes, shape: Shape) -> int:
    """Bytes before the columns in a file with this first page; where that does not say it, in one of this shape."""
    slots = HEADER.unpack_from(page.ljust(HEADER.size, b"\0"))[2]
    if 1 <= slots <= MAX_SLOTS:
        shape = shape._replace(slots=slots)
    head: int = Layout(shape).head  # no version's is longer
    return head


def others_checksum(entries: Any, cell: int) -> int:
    """CRC-32 of the directory with one entry as zeros."""
    data = bytearray(entries.tobytes())
    data[cell * ENTRY.itemsize : (cell + 1) * ENTRY.itemsize] = bytes(ENTRY.itemsize)
    return zlib.crc32(data)


def flipped_checksum(checksum: int, part: bytes, after: int) -> int:
    """CRC-32 of data, known by its checksum, once the bits of `part` are flipped in it; `after` bytes follow on it.

    A CRC is linear: a change counts by itself, times x^(8 after) modulo the polynomial, whatever the rest is.
    """
    change = zlib.crc32(part) ^ zlib.crc32(bytes(len(part)))
    for bit in range(after.bit_length()):
        if after >> bit & 1:
            change = _times(change, _power(bit))
    return checksum ^ change


_POLYNOMIAL, _ONE = 0xEDB88320, 1 << 31  # of CRC-32; 1: the highest power stands in the lowest bit


@cache
def _power(bit: int) -> int:
    """x^(8 2^bit) modulo the polynomial."""
    return _times(_power(bit - 1), _power(bit - 1)) if bit else _ONE >> 8


def _times(a: int, b: int) -> int:
    """Product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def entry_checksum(entry: Any) -> int:
    """CRC-32 of a directory entry, an ENTRY of no dimensions, but for this checksum itself."""
    return zlib.crc32(entry.tobytes()[:_CHECKED])


def fits_checksum(entries: Any) -> npt.NDArray[np.bool_]:
    """Of each entry (n,): whether it has its checksum."""
    data, size = entries.tobytes(), ENTRY.itemsize
    written = np.flatnonzero(np.frombuffer(data, "<u8").reshape(len(entries), -1).any(axis=1))
    found = [zlib.crc32(data[at : at + _CHECKED]) for at in (written * size).tolist()]
    fits = np.zeros(len(entries), bool)
    fits[written] = entries["checksum"][written] == np.array(found, np.uint32)
    return fits


_CHECKED = ENTRY.itemsize - ENTRY["checksum"].itemsize


def use_checksum(slot: int, number: int) -> int:
    """CRC-32 of when a slot was last recalled."""
    return zlib.crc32(USE.pack(slot, number))


def cut_text(text: str, limit: int) -> tuple[bytes, bool]:
    """UTF-8 of at most `limit` bytes, never half a character, and whether something is missing."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore").encode(), len(data) > limit
