"""Checks of a `.mem` file: whole, in the middle of a write, or damaged."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import MemoryFileError
from bitmar.session.layout import (
    CRC,
    FORMAT_VERSION,
    HEADER,
    MAGIC,
    MAKING,
    MAX_SEQUENCE,
    MAX_SLOTS,
    MAX_TIME,
    PAGE,
    TEXT_BYTES,
    Layout,
    Seal,
    Shape,
    fits_checksum,
    others_checksum,
)

Mask = npt.NDArray[np.bool_]


def header_of(shape: Shape, model: str, made: float | None) -> bytes:
    """The first page as far as it is not zeros. made: seconds since 1970; None while the file is being made."""
    magic = MAGIC if made is not None else MAKING
    header = HEADER.pack(magic, FORMAT_VERSION, *shape, TEXT_BYTES, model.encode(), made or 0.0)
    return header + CRC.pack(zlib.crc32(header))


def read_header(raw: bytes, size: int, shape: Shape, model: str, name: str) -> tuple[Shape, Layout, float | None]:
    """Shape and layout of a file that begins with `raw`, and the time it was made; None for a file that is not there,
    or whose making was cut off. shape: the widths that it must have, and the slots of one that is not there. Raises
    MemoryFileError for one of another kind, version, model or size.
    """
    page = raw[:PAGE].ljust(PAGE, b"\0")
    magic, version, *numbers, owner, made = HEADER.unpack_from(page)
    damaged = page[HEADER.size :][: CRC.size] != CRC.pack(zlib.crc32(page[: HEADER.size]))
    slots = numbers[0]
    own = shape._replace(slots=slots) if 1 <= slots <= MAX_SLOTS else shape
    for one in (shape, own):
        if (magic != MAGIC or damaged) and _is_unfinished(page, raw, size, one, model):
            return one, Layout(one), None
    if magic != MAGIC:
        raise MemoryFileError(f"{name}: no memory file (.mem): name another file for the memory")
    if version > FORMAT_VERSION:
        raise MemoryFileError(
            f"{name}: written by a later bitmar (format {version}): run `pip install --upgrade bitmar`"
        )
    if damaged or version < 1:
        raise MemoryFileError(f"{name}: its first page is damaged: take a copy or start another memory")
    if owner != model.encode():
        raise MemoryFileError(
            f"{name}: belongs to another model ({owner.decode(errors='replace')[:12]}, this one is "
            f"{model[:12]}), whose vectors mean nothing to this one: use it with that model, or export it "
            "there and import it here with `bitmar memory`, which takes over the texts"
        )
    layout = Layout(own, version)
    if numbers != [*own, TEXT_BYTES] or size != layout.size:
        raise MemoryFileError(f"{name}: damaged, its size does not fit its first page: take a copy")
    return own, layout, float(made) if 0 <= made < MAX_TIME else 0.0


def _is_unfinished(page: bytes, raw: bytes, size: int, shape: Shape, model: str) -> bool:
    """Whether making the file was cut off: nothing after its first page, and of that nothing, all or some of what says
    that it is being made, or some of the final one.
    """
    written, whole = page.rstrip(b"\0"), Layout(shape).size
    if size > whole or raw.count(0, PAGE) != max(len(raw) - PAGE, 0):
        return False
    if not written or (len(written) >= len(MAKING) and header_of(shape, model, None).startswith(written)):
        return True
    wanted = header_of(shape, model, 0.0)[: HEADER.size - 8]  # all but the time
    return size == whole and (wanted.startswith(written) or written.startswith(wanted))


def valid_entries(entries: Any, slots: int) -> Mask:
    """Of each directory entry: whether it says what was written."""
    mask: Mask = fits_checksum(entries) & (entries["slot"] < slots) & (entries["sequence"] <= MAX_SEQUENCE)
    return mask


def missing(raw: bytes, layout: Layout, entries: Any, valid: Mask, live: int) -> int:
    """How many episodes, at least, the directory has lost; 0 where it is whole. live: how many it holds."""
    blank = ~np.frombuffer(entries.tobytes(), np.uint8).reshape(len(entries), -1).any(axis=1)
    torn = int((~valid & ~blank).sum())
    newest = max(np.flatnonzero(valid), key=lambda cell: int(entries["sequence"][cell]), default=None)
    promised = 0 if newest is None else int(entries["live"][newest])
    if not layout.seals:  # all that version 1 has: one torn entry is a write that was cut off
        return max(torn - 1, promised - live, 0)
    seals = [Seal.read(raw, start) for start in layout.seals]
    last = max((seal for seal in reversed(seals) if seal), key=lambda seal: seal.sequence, default=None)
    if last is None:
        return 0 if blank.all() else max(torn, live, 1)
    # An entry ends in its own checksum, so that a checksum over entries is the same with any others in their places,
    # as those of a page that stands there twice or is an older copy: but then the numbers do not agree.
    numbers = entries["sequence"][valid]
    agree = promised == live and len(np.unique(numbers)) == len(numbers)
    whole = agree and last.cell < len(entries) and others_checksum(entries, last.cell) == last.others
    if whole and valid[last.cell] and int(entries["checksum"][last.cell]) == last.entry:
        return 0
    done = seals[-1]
    cut = done.sequence < last.sequence if done else not any(raw[layout.seals[-1] :][:PAGE])
    if whole and cut:  # announced, and never done: the former state stands
        return 0
    return max(last.live - live, torn, 1)
