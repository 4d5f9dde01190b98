"""The `.mem` file: K slots of one session's memory, in place, on a card that may lose power at any moment.

Every part has a fixed place and size (docs/memory.md), so K decides the file's size once and for all. There is one cell
more than slots: an episode is always written into a cell that nothing refers to, is made to last, and only then named
by its entry in the directory. A cut before that leaves what was there; a torn entry fails its checksum and its slot's
former entry stands. No journal, and nothing is written twice.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import MemoryBusyError, MemoryFileError
from bitmar.core.ternary import F32
from bitmar.session.layout import (
    COLUMNS,
    CUT,
    ENTRY,
    FORMAT_VERSION,
    HASH,
    HEADER,
    IMAGE,
    LIVE,
    LOST,
    LOST_BYTES,
    MAGIC,
    MAX_SLOTS,
    MAX_TIME,
    PAGE,
    TEXT,
    TEXT_BYTES,
    Ints,
    Lost,
    Record,
    Shape,
    Vectors,
    cut_text,
    entry_checksum,
    use_checksum,
)
from bitmar.session.pages import Pages

_RETRIES = 20  # of a reader that a writer keeps overtaking
_T = TypeVar("_T")


class MemoryFile:
    """One writer (from its first write on, until `close`) and any number of readers, which see it at `refresh`.

    model: the checksum of the model, 64 hexadecimal digits. salvage: read a damaged file as far as its checksums hold.
    Raises MemoryFileError for a file of another model, kind or version, a damaged one, and any fault of the disk.
    """

    def __init__(self, pages: Pages, shape: Shape, model: str, *, salvage: bool = False) -> None:
        if not 1 <= shape.slots <= MAX_SLOTS:
            raise MemoryFileError(f"a memory has from 1 to {MAX_SLOTS} slots, not {shape.slots}")
        self.pages, self.shape, self.model, self.salvage = pages, shape, model, salvage
        self.cells = shape.slots + 1
        widths = (2 * shape.value, 2 * shape.image, 2 * shape.text, TEXT_BYTES + LOST.size + LOST_BYTES)
        sizes = [ENTRY.itemsize * self.cells, 8 * shape.slots, *(width * self.cells for width in widths)]
        starts = np.cumsum([PAGE, *(-(-size // PAGE) * PAGE for size in sizes)]).tolist()
        self._directory_at, self._uses_at, *columns, self.size = starts
        self._columns = dict(zip(COLUMNS, zip(columns, widths, strict=True), strict=True))
        self.version = 0  # changes whenever what can be read does
        self._raw = b""
        self._writing = False
        self.refresh()

    # Reading.

    def refresh(self) -> None:
        """Take in what another program has written since; a writer is alone and knows all."""
        if self._writing:
            return
        raw = self.pages.read(0, self._columns["value"][0])  # header, directory, uses: the pages before the columns
        if raw != self._raw or not self.version:
            self._load(raw)
            self._raw = raw
            self.version += 1

    def consistently(self, read: Callable[[], _T]) -> _T:
        """What `read` returns, from one state of the file: repeated if another program wrote in the meantime."""
        for _ in range(_RETRIES):
            self.refresh()
            version = self.version
            try:
                return read()
            except MemoryFileError:
                self.refresh()
                if self.version == version:  # not overtaken by a write: damaged indeed
                    raise
        raise MemoryBusyError(f"{self.pages.name}: another program writes it without a pause: try again")

    def _load(self, raw: bytes) -> None:
        self.made = self._check_header(raw)
        entries = np.zeros(self.cells, ENTRY)
        self._cell_of = np.full(self.shape.slots, -1)
        self._entries, self._used = entries, np.zeros(self.shape.slots, np.uint64)
        self._sequence = self.damaged = 0
        if self.made is None:
            return
        directory = raw[self._directory_at : self._directory_at + entries.nbytes]
        entries[:] = np.frombuffer(directory, ENTRY)
        valid = np.array([entry_checksum(entries[cell]) == entries["checksum"][cell] for cell in range(self.cells)])
        valid &= entries["slot"] < self.shape.slots
        blank = np.frombuffer(directory, np.uint8).reshape(self.cells, -1).any(axis=1) == 0
        for cell in sorted(np.flatnonzero(valid), key=lambda cell: int(entries["sequence"][cell])):
            self._cell_of[entries["slot"][cell]] = cell  # the latest entry of a slot holds
        torn = int((~valid & ~blank).sum())
        newest = max(np.flatnonzero(valid), key=lambda cell: int(entries["sequence"][cell]), default=None)
        promised = 0 if newest is None else int(entries["live"][newest])
        self.damaged = max(torn - 1, promised - len(self.live()), 0)  # one torn entry is a write that was cut off
        if self.damaged and not self.salvage:
            raise MemoryFileError(
                f"{self.pages.name}: damaged, {self.damaged} episodes cannot be read; save the others with "
                "`bitmar memory export --salvage`, then import them into a new memory"
            )
        self._sequence = 0 if newest is None else int(entries["sequence"][newest])
        self._load_uses(raw)

    def _load_uses(self, raw: bytes) -> None:
        """When each slot was last written or recalled; a torn number falls back to the former."""
        uses = np.frombuffer(raw, "<u4", 2 * self.shape.slots, self._uses_at).reshape(-1, 2)
        for slot in self.live():
            number, checksum = uses[slot].tolist()
            written = int(self._entries["sequence"][self._cell_of[slot]])
            self._used[slot] = max(written, number if checksum == use_checksum(slot, number) else 0)
        self._sequence = max(self._sequence, int(self._used.max()))

    def _check_header(self, raw: bytes) -> float | None:
        """The time it was made; None for a file that is not there, or whose making was cut off before any use."""
        name, page = self.pages.name, raw[:PAGE].ljust(PAGE, b"\0")
        magic, version, *numbers, model, made = HEADER.unpack_from(page)
        (checksum,) = struct.unpack_from("<I", page, HEADER.size)
        damaged = zlib.crc32(page[: HEADER.size]) != checksum
        if damaged and self._is_unfinished(page, raw):
            return None
        if magic != MAGIC:
            raise MemoryFileError(f"{name}: no memory file (.mem): name another file for the memory")
        if version > FORMAT_VERSION:
            raise MemoryFileError(
                f"{name}: written by a later bitmar (format {version}): run `pip install --upgrade bitmar`"
            )
        if damaged:
            raise MemoryFileError(f"{name}: its first page is damaged: take a copy or start another memory")
        if model != self.model.encode():
            raise MemoryFileError(
                f"{name}: belongs to another model ({model.decode(errors='replace')[:12]}, this one is "
                f"{self.model[:12]}), whose vectors mean nothing to this one: use it with that model, or export it "
                "there and import it here with `bitmar memory`, which takes over the texts"
            )
        if numbers != [*self.shape, TEXT_BYTES] or self.pages.size() != self.size:
            raise MemoryFileError(f"{name}: damaged, its size does not fit its first page: take a copy")
        return float(made) if 0 <= made < MAX_TIME else 0.0

    def _is_unfinished(self, page: bytes, raw: bytes) -> bool:
        """Whether `_make` was cut off: the beginning of its first page, if any of it, and nothing behind."""
        written, wanted = page.rstrip(b"\0"), self._header(0.0)[:-8]  # all but the time
        size = self.pages.size()
        return not any(raw[PAGE:]) and (
            (not written and size <= self.size)
            or (size == self.size and (wanted.startswith(written) or written.startswith(wanted)))
        )

    def _header(self, made: float) -> bytes:
        return HEADER.pack(MAGIC, FORMAT_VERSION, *self.shape, TEXT_BYTES, self.model.encode(), made)

    def live(self) -> Ints:
        """The slots that hold an episode, ascending."""
        cells = self._cell_of
        live: Ints = np.flatnonzero((cells >= 0) & (self._entries["flags"][cells] & LIVE != 0))
        return live

    def usage(self, decay: float) -> F32:
        """Of every slot (K,), in (0, 1]: 1 was written or recalled last, and each write since took the factor decay."""
        age = np.float64(self._sequence) - self._used.astype(np.float64)
        usage: F32 = np.power(np.float64(decay), age).astype(np.float32)
        return usage

    def column(self, name: str, slots: Ints) -> F32:
        """One vector ("value", "image", "text") of each of these live slots, (n, width); zeros where there is none."""
        start, width = self._columns[name]
        if not len(slots):
            return np.zeros((0, width // 2), np.float32)
        data = self.pages.read(start, width * self.cells)
        for slot in slots:
            cell = self._cell_of[slot]
            self._check(name, int(slot), data[cell * width : (cell + 1) * width])
        vectors: F32 = np.frombuffer(data, "<f2").reshape(self.cells, -1)[self._cell_of[slots]].astype(np.float32)
        if not np.isfinite(vectors).all():
            raise self._damage(name, int(slots[~np.isfinite(vectors).all(axis=1)][0]))
        return vectors

    def has(self, name: str) -> npt.NDArray[np.bool_]:
        """Of every slot (K,): whether a live episode has this key, "image" or "text"."""
        found = np.zeros(self.shape.slots, bool)
        live = self.live()
        flag = IMAGE if name == "image" else TEXT
        found[live] = self._entries["flags"][self._cell_of[live]] & flag != 0
        return found

    def record(self, slot: int) -> Record:
        """What stands beside the vectors of a live slot."""
        start, width = self._columns["record"]
        cell = self._cell_of[slot]
        data = self.pages.read(start + int(cell) * width, width)
        self._check("record", slot, data)
        entry = self._entries[cell]
        flags = int(entry["flags"])
        (lost_time,) = LOST.unpack_from(data, TEXT_BYTES)
        texts = data[: int(entry["text_bytes"])], data[TEXT_BYTES + LOST.size :][: int(entry["lost_bytes"])]
        if not (0 <= float(entry["time"]) < MAX_TIME and 0 <= lost_time < MAX_TIME):
            raise self._damage("record", slot)
        text, lost_text = (part.decode("utf-8", "replace") for part in texts)
        lost = Lost(lost_text, lost_time) if lost_time else None
        photo = int(entry["photo"]) if flags & HASH else None
        return Record(text, float(entry["time"]), photo, bool(flags & CUT), lost)

    def _check(self, name: str, slot: int, data: bytes) -> None:
        entry = self._entries[self._cell_of[slot]]
        if zlib.crc32(data, slot) != int(entry["checksums"][COLUMNS.index(name)]):
            raise self._damage(name, slot)

    def _damage(self, name: str, slot: int) -> MemoryFileError:
        return MemoryFileError(
            f"{self.pages.name}: the {name} of slot {slot} is damaged: `bitmar memory forget` that slot, or save the "
            "others with `bitmar memory export --salvage`"
        )

    # Writing.

    def begin(self) -> None:
        """Become the one writer, and make the file where there is none. Raises MemoryFileError if another one is."""
        if self._writing:
            return
        self.pages.lock()
        try:
            self.refresh()
            if self.made is None:
                self._make()
                self.refresh()
        except BaseException:
            self.close()
            raise
        self._writing = True

    def _make(self) -> None:
        """An empty file of its final size, so that no later write needs space; the first page comes last."""
        self.pages.write(0, bytes(self.size))
        self.pages.sync()
        header = self._header(time.time())
        self.pages.write(0, header + struct.pack("<I", zlib.crc32(header)))
        self.pages.sync()

    def write(self, vectors: Vectors, text: str, *, photo: int | None = None, when: float | None = None) -> int:
        """Store an episode in a free slot, or in the one of least usage: its slot. It lasts when this returns."""
        self.begin()
        slot, lost = self._place()
        body, cut = cut_text(text, TEXT_BYTES)
        flags = LIVE | CUT * cut | HASH * (photo is not None)
        flags |= IMAGE * (vectors.image is not None) | TEXT * (vectors.text is not None)
        lost_text = cut_text(lost.text, LOST_BYTES)[0] if lost else b""
        record = body.ljust(TEXT_BYTES, b"\0") + LOST.pack(lost.time if lost else 0.0) + lost_text
        cells = {"record": record.ljust(self._columns["record"][1], b"\0")}
        for name, vector in zip(COLUMNS, vectors, strict=False):
            cells[name] = self._pack(name, vector)
        entry = self._entry(slot, flags)
        entry["time"], entry["photo"] = time.time() if when is None else when, photo or 0
        entry["text_bytes"], entry["lost_bytes"] = len(body), len(lost_text)
        entry["checksums"] = [zlib.crc32(cells[name], slot) for name in COLUMNS]
        entry["live"] = len(set(self.live().tolist()) | {slot})
        with self._all_or_nothing():
            cell = self._free_cell()
            for name in COLUMNS:
                start, width = self._columns[name]
                self.pages.write(start + cell * width, cells[name])
            self.pages.sync()
            self._commit(cell, entry)
        return slot

    def forget(self, slots: Sequence[int]) -> None:
        """Empty these slots and wipe what stood there."""
        self.begin()
        for slot in slots:
            if slot not in self.live():
                raise MemoryFileError(f"{self.pages.name}: slot {slot} holds nothing; `bitmar memory show` lists them")
            old = int(self._cell_of[slot])
            entry = self._entry(slot, 0)
            entry["live"] = len(self.live()) - 1
            with self._all_or_nothing():
                self._commit(self._free_cell(), entry)
                for start, width in self._columns.values():
                    self.pages.write(start + old * width, bytes(width))
                self.pages.sync()

    def touch(self, uses: Sequence[int]) -> None:
        """Note that these slots were recalled, in this order."""
        self.begin()
        with self._all_or_nothing():
            for slot in uses:
                self._sequence += 1
                self._used[slot] = number = self._sequence
                self.pages.write(self._uses_at + 8 * slot, struct.pack("<II", number, use_checksum(slot, number)))
            self.pages.sync()

    def close(self) -> None:
        """Let another program write. The object can still be used; its next write locks again."""
        self.pages.close()
        self._writing, self._raw = False, b""

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """After a fault nobody knows which bytes have arrived: what is there is read again before the next use."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _place(self) -> tuple[int, Lost | None]:
        live = self.live()
        if len(live) < self.shape.slots:
            return int(np.setdiff1d(np.arange(self.shape.slots), live)[0]), None
        slot = int(self._used.argmin())
        try:
            record = self.record(slot)
        except MemoryFileError:  # what is overwritten may well be damaged
            return slot, Lost("(damaged)", time.time())
        return slot, Lost(record.text, record.time)

    def _free_cell(self) -> int:
        return int(np.setdiff1d(np.arange(self.cells), self._cell_of)[0])

    def _pack(self, name: str, vector: F32 | None) -> bytes:
        width = self._columns[name][1] // 2
        if vector is None:
            return bytes(2 * width)
        if vector.shape != (width,) or not np.isfinite(vector).all():
            raise MemoryFileError(f"the {name} of an episode must be {width} finite numbers, not {vector.shape}")
        return np.clip(vector, -65504, 65504).astype("<f2").tobytes()

    def _entry(self, slot: int, flags: int) -> Any:
        entry = np.zeros((), ENTRY)
        entry["sequence"], entry["slot"], entry["flags"] = self._sequence + 1, slot, flags
        return entry

    def _commit(self, cell: int, entry: Any) -> None:
        """Name a finished cell in the directory: from here on its episode exists."""
        entry["checksum"] = entry_checksum(entry)
        self.pages.write(self._directory_at + cell * ENTRY.itemsize, entry.tobytes())
        self.pages.sync()
        self._entries[cell], slot = entry, int(entry["slot"])
        self._sequence = int(entry["sequence"])
        self._cell_of[slot], self._used[slot] = cell, self._sequence if entry["flags"] else 0
        self.version += 1
