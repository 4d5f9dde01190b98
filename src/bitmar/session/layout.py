"""What stands where in a `.mem` file (docs/memory.md), and what is put in and taken out."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitmar.core.ternary import F32

FORMAT_VERSION = 1
PAGE = 4096
TEXT_BYTES, LOST_BYTES = 512, 120
MAX_SLOTS = 1 << 20
MAX_TIME = 2.5e11  # seconds since 1970: the year 9892
COLUMNS = ("value", "image", "text", "record")

MAGIC = b"BITMAR\0M"
HEADER = struct.Struct("<8sIIIIII64sd")  # magic, version, slots, three widths, text bytes, model's checksum, time made
LOST = struct.Struct("<d")
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


@dataclass(frozen=True, slots=True)
class Lost:
    """What an episode has overwritten: the beginning of its text, and when it was written (seconds since 1970)."""

    text: str
    time: float


@dataclass(frozen=True, slots=True)
class Record:
    """What stands beside an episode's vectors.

    photo: hash of its thumbnail, None for an episode without a photo. cut: the text was longer than TEXT_BYTES.
    """

    text: str
    time: float
    photo: int | None = None
    cut: bool = False
    lost: Lost | None = None


class Vectors(NamedTuple):
    """value (C,): what the model reads. image (d,), text (C,): keys to recall by, None where there is none."""

    value: F32
    image: F32 | None
    text: F32 | None


def entry_checksum(entry: Any) -> int:
    """CRC-32 of a directory entry, an ENTRY of no dimensions, but for this checksum itself."""
    return zlib.crc32(entry.tobytes()[: -ENTRY["checksum"].itemsize])


def use_checksum(slot: int, number: int) -> int:
    """CRC-32 of when a slot was last recalled."""
    return zlib.crc32(struct.pack("<II", slot, number))


def cut_text(text: str, limit: int) -> tuple[bytes, bool]:
    """UTF-8 of at most `limit` bytes, never half a character, and whether something is missing."""
    data = text.encode("utf-8", "replace")
    return data[:limit].decode("utf-8", "ignore").encode(), len(data) > limit
