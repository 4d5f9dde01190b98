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

from bitmar.core.errors import MemoryFileError, told
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
    PAGE,
    TEXT,
    TEXT_BYTES,
    USE,
    Layout,
    Lost,
    Seal,
    Shape,
    Vectors,
    cut_text,
    entry_checksum,
    flipped_checksum,
    use_checksum,
)
from bitmar.session.pages import RamPages
from bitmar.session.reader import MemoryReader
from bitmar.session.verify import header_of

_PIECE = 1 << 20  # bytes that are written at once where there are many


class MemoryFile(MemoryReader):
    """One writer (from its first write on, until `close`) and any number of readers, which see it at `refresh`.

    model: the checksum of the model, 64 hexadecimal digits. decay: of a slot's usage, with each write or recall.
    salvage: read a damaged file as far as its checksums hold. grow: a file of fewer slots than `shape` grows to as many
    before the next write; otherwise `shape` speaks for a new file, and one that is there keeps its number of slots. Not
    for several threads at once (`Session` is).
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
            elif self.layout.version != FORMAT_VERSION or self._room() != self.shape:
                self.pages.replace(self._rewritten(self._room()))
            elif (seal := self._seal(self._entries)) and Seal.read(self._raw or b"", self.layout.seals[-1]) != seal:
                self._write(self.layout.seals[-1], seal.pack())  # a writer died before its last one
                self.pages.sync()
            self.refresh()
        except BaseException:
            self.close()
            raise
        self._writing = True

    def _room(self) -> Shape:
        """The shape that the file should have."""
        return self.shape._replace(slots=max(self.shape.slots, self.wanted.slots)) if self.grow else self.shape

    def _make(self) -> None:
        """An empty file of its final size, so that no later write needs space; its final first page comes last."""
        shape = self._room()
        size = Layout(shape).size
        self.pages.write(0, header_of(shape, self.model, None))
        self.pages.sync()
        for start in range(PAGE, size, _PIECE):
            self.pages.write(start, bytes(min(_PIECE, size - start)))
        self.pages.sync()
        self.pages.write(0, header_of(shape, self.model, time.time()))
        self.pages.sync()

    def _rewritten(self, shape: Shape) -> bytearray:
        """The whole file as this version writes it, in this shape, which has as many slots or more."""
        old, new = self.layout, Layout(shape)
        image = bytearray(new.size)
        entries = np.concatenate((self._entries, np.zeros(new.cells - old.cells, ENTRY)))
        parts = {0: header_of(shape, self.model, self.made or 0.0), new.directory: entries.tobytes()}
        if (seal := self._seal(entries)) is not None:
            parts |= dict.fromkeys(new.seals, seal.pack())
        parts[new.uses] = self.pages.read(old.uses, USE.size * self.shape.slots)
        for start, part in parts.items():
            image[start : start + len(part)] = part
        for name, (start, width) in new.columns.items():
            length = width * old.cells
            image[start : start + length] = self.pages.read(old.columns[name][0], length)
        return image

    def _seal(self, entries: Any) -> Seal | None:
        """For a directory of these entries, the present ones and perhaps more room; None while it is empty."""
        used = self._cell_of[self._cell_of >= 0]
        if not len(used):
            return None
        cell = int(used[entries["sequence"][used].argmax()])
        return Seal.of(entries, cell, entries[cell])

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """All writes within come to last together, when the block ends, or not at all. Raises MemoryFileError."""
        self.begin()
        pages, copy = self.pages, RamPages(self.pages.read(0, self.layout.size))
        self.pages, self._alone = copy, True
        with self._all_or_nothing():
            try:
                yield
            finally:
                self.pages, self._alone = pages, False
            pages.renew()
            pages.replace(copy.data)

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
        entry["live"] = np.count_nonzero(self._flags) + (self._flags[slot] == 0)
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
        for slot in slots:
            if type(slot) is bool or slot not in range(self.shape.slots) or not self._flags[int(slot)]:
                raise MemoryFileError(
                    f"{self.pages.name}: slot {told(slot)} holds nothing; `bitmar memory show` lists them"
                )
        for slot in dict.fromkeys(map(int, slots)):
            old = int(self._cell_of[slot])
            entry = self._entry(slot, 0)
            entry["live"] = np.count_nonzero(self._flags) - 1
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
        if slot is None and not self._flags.all():
            return int((self._flags == 0).argmax()), None
        slot = int(self._used.argmin()) if slot is None else slot
        try:
            episode = self.episode(slot)
        except MemoryFileError:  # what is overwritten may well be damaged
            return slot, Lost("(damaged)", time.time())
        return slot, Lost(episode.text, episode.time)

    def _free_cell(self) -> int:
        free = np.ones(self.layout.cells, bool)
        free[self._cell_of[self._cell_of >= 0]] = False
        return int(free.argmax())

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
        place = self.layout.directory + cell * ENTRY.itemsize
        after = ENTRY.itemsize * (self.layout.cells - cell - 1)
        others = flipped_checksum(self._checksum, self._entries[cell].tobytes(), after)
        seal = Seal(int(entry["sequence"]), int(entry["live"]), cell, others, int(entry["checksum"])).pack()
        *announced, done = self.layout.seals
        self._write(announced[int(entry["sequence"]) % 2], seal)
        self.pages.sync()
        self._write(place, entry.tobytes())
        self.pages.sync()
        self._write(done, seal)  # lasts from the next sync on; if it is lost before, the announcement stands
        self._entries[cell], slot = entry, int(entry["slot"])
        self._checksum = flipped_checksum(others, entry.tobytes(), after)
        self._sequence = int(entry["sequence"])
        self._cell_of[slot], self._used[slot] = cell, self._sequence if entry["flags"] else 0
        self._take_in(np.array([slot]))
        self.refresh()  # it is still the file of this name, and nobody has written into it
        if self.pages.read(place, ENTRY.itemsize) != entry.tobytes():
            raise self._overwritten()
        self.version += 1
