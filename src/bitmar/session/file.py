"""The `.mem` file: K slots of one session's memory, in place, on a card that may lose power at any moment.

Every part has a fixed place and size (docs/memory.md), so K decides the file's size once and for all. There is one cell
more than slots: an episode is always written into a cell that nothing refers to, is made to last, and only then named
by its entry in the directory. A cut before that leaves what was there; a torn entry fails its checksum and its slot's
former entry stands. No journal, and nothing is written twice.

Seals watch over the directory, from pages of their own. One is written with the episode and announces its entry: with
that, the directory will have this checksum. Another says the same once the entry lasts. So a page of the directory that
was lost, or replaced by an older copy, is told from a write that was cut off. Announcements stand in two places by
turns: one that is torn leaves its predecessor.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bitmar.core.errors import MemoryFileError
from bitmar.core.ternary import F32
from bitmar.session.layout import (
    COLUMNS,
    CUT,
    ENTRY,
    FORMAT_VERSION,
    HASH,
    IMAGE,
    LIVE,
    LOST,
    LOST_BYTES,
    MAX_SEQUENCE,
    TEXT,
    TEXT_BYTES,
    USE,
    Layout,
    Lost,
    Seal,
    Vectors,
    cut_text,
    entry_checksum,
    use_checksum,
)
from bitmar.session.pages import RamPages
from bitmar.session.reader import MemoryReader
from bitmar.session.verify import header_of


class MemoryFile(MemoryReader):
    """One writer (from its first write on, until `close`) and any number of readers, which see it at `refresh`.

    model: the checksum of the model, 64 hexadecimal digits. decay: of a slot's usage, with each write or recall.
    salvage: read a damaged file as far as its checksums hold. Not for several threads at once (`Session` is).
    Raises MemoryFileError for a file of another model, kind or version, a damaged one, one that was deleted or replaced
    under its writer, and any fault of the disk.
    """

    def begin(self) -> None:
        """Become the one writer, and make the file where there is none. Raises MemoryFileError if another one is."""
        if self._writing:
            self.refresh()
            if self._writing:  # no fork of the writer
                return
        self.pages.lock()
        try:
            self._raw = None
            self.refresh()
            if self.damaged:
                raise MemoryFileError(f"{self.pages.name}: damaged: export what can be saved into a new memory")
            if self.made is None:
                self._make()
            elif self.layout.version != FORMAT_VERSION:
                self.pages.replace(self._as_latest())
            elif (seal := self._seal()) and Seal.read(self._raw or b"", self.layout.seals[-1]) != seal:
                self._write(self.layout.seals[-1], seal.pack())  # a writer died before its last one
                self.pages.sync()
            self.refresh()
        except BaseException:
            self.close()
            raise
        self._writing = True

    def _make(self) -> None:
        """An empty file of its final size, so that no later write needs space; the first page comes last."""
        self.pages.write(0, bytes(self.layout.size))
        self.pages.sync()
        self.pages.write(0, header_of(self.shape, self.model, time.time()))
        self.pages.sync()

    def _as_latest(self) -> bytes:
        """The whole file as this version writes it."""
        old, new = self.layout, Layout(self.shape)
        image = bytearray(new.size)
        parts = {0: header_of(self.shape, self.model, self.made or 0.0)}
        parts[new.directory] = self.pages.read(old.directory, old.size - old.directory)
        if (seal := self._seal()) is not None:
            parts |= dict.fromkeys(new.seals, seal.pack())
        for start, part in parts.items():
            image[start : start + len(part)] = part
        return bytes(image)

    def _seal(self) -> Seal | None:
        """For the directory as it is; None while it is empty."""
        used = self._cell_of[self._cell_of >= 0]
        if not len(used):
            return None
        cell = int(used[self._entries["sequence"][used].argmax()])
        return Seal.of(self._entries, cell, self._entries[cell])

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All writes within come to last together, when the block ends, or not at all. Raises MemoryFileError."""
        self.begin()
        pages, copy = self.pages, RamPages(self.pages.read(0, self.layout.size))
        self.pages = copy
        with self._all_or_nothing():
            try:
                yield
            finally:
                self.pages = pages
            pages.renew()
            pages.replace(bytes(copy.data))

    def write(
        self,
        vectors: Vectors,
        text: str,
        *,
        photo: str | None = None,
        when: float | None = None,
        slot: int | None = None,
    ) -> int:
        """Store an episode in this slot, a free one, or the one of least usage: its slot. It lasts on return."""
        self.begin()
        slot, lost = self._place(slot)
        body, cut = cut_text(text, TEXT_BYTES)
        flags = LIVE | CUT * cut | HASH * (photo is not None)
        flags |= IMAGE * (vectors.image is not None) | TEXT * (vectors.text is not None)
        lost_text = cut_text(lost.text, LOST_BYTES)[0] if lost else b""
        record = body.ljust(TEXT_BYTES, b"\0") + LOST.pack(lost.time if lost else 0.0) + lost_text
        cells = {"record": record.ljust(self.layout.columns["record"][1], b"\0")}
        for name, vector in zip(COLUMNS, vectors, strict=False):
            cells[name] = self._pack(name, vector)
        entry = self._entry(slot, flags)
        entry["time"], entry["photo"] = time.time() if when is None else when, int(photo or "0", 16)
        entry["text_bytes"], entry["lost_bytes"] = len(body), len(lost_text)
        entry["checksums"] = [zlib.crc32(cells[name], slot) for name in COLUMNS]
        entry["live"] = len(set(self.live().tolist()) | {slot})
        with self._all_or_nothing():
            cell = self._free_cell()
            for name in COLUMNS:
                start, width = self.layout.columns[name]
                self.pages.write(start + cell * width, cells[name])
            self._commit(cell, entry)
        return slot

    def forget(self, slots: Sequence[int]) -> None:
        """Empty these slots and wipe what stood there."""
        self.begin()
        live = set(self.live().tolist())
        for slot in slots:
            if slot not in live:
                raise MemoryFileError(f"{self.pages.name}: slot {slot} holds nothing; `bitmar memory show` lists them")
        for slot in dict.fromkeys(slots):
            old = int(self._cell_of[slot])
            entry = self._entry(slot, 0)
            entry["live"] = len(self.live()) - 1
            with self._all_or_nothing():
                self._commit(self._free_cell(), entry)
                for start, width in self.layout.columns.values():
                    self.pages.write(start + old * width, bytes(width))
                self.pages.sync()

    def touch(self, uses: Sequence[int]) -> None:
        """Note that these slots were recalled, in this order."""
        self.begin()
        with self._all_or_nothing():
            for slot in uses:
                self._sequence = number = self._next()
                self._used[slot] = number
                self._write(self.layout.uses + USE.size * slot, USE.pack(number, use_checksum(slot, number)))
            self.pages.sync()
            self.refresh()

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """After a fault nobody knows which bytes have arrived: what is there is read again before the next use."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _place(self, slot: int | None) -> tuple[int, Lost | None]:
        live = self.live()
        if slot is None and len(live) < self.shape.slots:
            return int(np.setdiff1d(np.arange(self.shape.slots), live)[0]), None
        slot = int(self._used.argmin()) if slot is None else slot
        try:
            episode = self.episode(slot)
        except MemoryFileError:  # what is overwritten may well be damaged
            return slot, Lost("(damaged)", time.time())
        return slot, Lost(episode.text, episode.time)

    def _free_cell(self) -> int:
        return int(np.setdiff1d(np.arange(self.layout.cells), self._cell_of)[0])

    def _pack(self, name: str, vector: F32 | None) -> bytes:
        width = self.layout.columns[name][1] // 2
        if vector is None:
            return bytes(2 * width)
        if vector.shape != (width,) or not np.isfinite(vector).all():
            raise MemoryFileError(f"the {name} of an episode must be {width} finite numbers, not {vector.shape}")
        return np.clip(vector, -65504, 65504).astype("<f2").tobytes()

    def _next(self) -> int:
        if self._sequence >= MAX_SEQUENCE:
            raise MemoryFileError(
                f"{self.pages.name}: its numbers are used up: export it, and import it into a new file"
            )
        return self._sequence + 1

    def _entry(self, slot: int, flags: int) -> Any:
        entry = np.zeros((), ENTRY)
        entry["sequence"], entry["slot"], entry["flags"] = self._next(), slot, flags
        return entry

    def _write(self, offset: int, data: bytes) -> None:
        """Into the pages before the columns, of which the writer knows every byte."""
        assert self._raw is not None
        self.pages.write(offset, data)
        self._raw[offset : offset + len(data)] = data

    def _commit(self, cell: int, entry: Any) -> None:
        """Name a cell in the directory: from here on its episode exists. All that was written lasts on return."""
        entry["checksum"] = entry_checksum(entry)
        seal = Seal.of(self._entries, cell, entry).pack()
        *announced, done = self.layout.seals
        self._write(announced[int(entry["sequence"]) % 2], seal)
        self.pages.sync()
        self._write(self.layout.directory + cell * ENTRY.itemsize, entry.tobytes())
        self.pages.sync()
        self._write(done, seal)  # lasts from the next sync on; if it is lost before, the announcement stands
        self._entries[cell], slot = entry, int(entry["slot"])
        self._sequence = int(entry["sequence"])
        self._cell_of[slot], self._used[slot] = cell, self._sequence if entry["flags"] else 0
        self.refresh()  # it is still the file of this name, and nobody has written into it
        self.version += 1
