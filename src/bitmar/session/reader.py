"""Reading a `.mem` file: what is whole of it, and one state of it beside a program that writes."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import MemoryBusyError, MemoryFileError
from bitmar.core.ternary import F32
from bitmar.session.column import Column
from bitmar.session.layout import (
    COLUMNS,
    CUT,
    ENTRY,
    HASH,
    IMAGE,
    LIVE,
    LOST,
    MAX_SLOTS,
    MAX_TIME,
    TEXT,
    TEXT_BYTES,
    Episode,
    Ints,
    Layout,
    Lost,
    Shape,
    cut_text,
    head_bytes,
    use_checksum,
)
from bitmar.session.pages import Pages
from bitmar.session.verify import missing, read_header, valid_entries

_PATIENCE = 5.0  # seconds of a reader that a writer keeps overtaking
_WATCHED = 1 << 16  # bytes of a file's beginning that each look compares: the seals, and some 700 slots
_BLOCK = 1 << 20  # bytes of a column that are read at once
_T = TypeVar("_T")


class MemoryReader:
    """The reading half of `MemoryFile`, which explains the arguments, with all checks."""

    def __init__(
        self,
        pages: Pages,
        shape: Shape,
        model: str,
        *,
        decay: float = 0.99,
        salvage: bool = False,
        grow: bool = False,
    ) -> None:
        if not 1 <= shape.slots <= MAX_SLOTS:
            raise MemoryFileError(f"a memory has from 1 to {MAX_SLOTS} slots, not {shape.slots}")
        self.pages, self.shape, self.model, self.decay, self.salvage = pages, shape, model, decay, salvage
        self.wanted, self.grow = shape, grow
        self.layout = Layout(shape)
        self._head_bytes = self.layout.head
        self.version = 0  # changes whenever what can be read does
        self._raw: bytearray | None = None
        self._writing = False
        self._alone = False  # nobody else can change these pages
        self._resident: dict[str, Column] = {}
        self.refresh()

    @property
    def size(self) -> int:
        """Bytes."""
        size: int = self.layout.size
        return size

    # Reading.

    def refresh(self) -> None:
        """Take in what another program has written since. A writer is alone, and whatever has changed is an error."""
        if self._alone:
            return
        try:
            if self.pages.renew():
                self.close()
        except MemoryFileError:
            self.close()
            raise
        if self._raw is not None and self._is_as_it_was(self._raw):
            return
        if self._writing:
            raise self._overwritten()
        self._raw = bytearray(self._load_still(self._head()))
        self.version += 1

    def _is_as_it_was(self, raw: bytearray) -> bool:
        """Whether the seals, which every write changes, and for a reader the uses are as they were; of up to `_WATCHED`
        bytes, the directory too.
        """
        parts = [(0, min(_WATCHED, self._head_bytes))]
        if not self._writing:
            parts.append((max(_WATCHED, self.layout.uses), self._head_bytes))
        return all(self.pages.read(start, end - start) == raw[start:end] for start, end in parts if start < end)

    def _overwritten(self) -> MemoryFileError:
        self.close()
        return MemoryFileError(
            f"{self.pages.name}: another program has changed it while it was being written: look at what it holds "
            "now, and remember again what is missing"
        )

    def _head(self) -> bytes:
        """All bytes before the columns."""
        raw = self.pages.read(0, self._head_bytes)
        needed = head_bytes(raw, self.wanted)
        if needed != self._head_bytes:
            self._head_bytes = needed
            raw = self.pages.read(0, needed)
        return raw

    def consistently(self, read: Callable[[], _T]) -> _T:
        """The result of `read` from one state of the file: repeated if another program wrote in the meantime."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            self.refresh()
            version = self.version
            try:
                return read()
            except MemoryFileError:
                self.refresh()
                if self.version == version:  # not overtaken by a write: damaged indeed
                    raise
            self._wait(deadline)

    def _load_still(self, raw: bytes) -> bytes:
        """Load what was read; damage counts once it has been read twice the same, for it may be half a write."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._load(raw)
                return raw
            except MemoryFileError:
                again = self._head()
                if again == raw:
                    raise
                raw = again
            self._wait(deadline)

    def _wait(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise MemoryBusyError(f"{self.pages.name}: another program writes it without a pause: try again")
        time.sleep(0.001)

    def _load(self, raw: bytes) -> None:
        size, name = self.pages.size(), self.pages.name
        self.shape, self.layout, self.made = read_header(raw, size, self.wanted, self.model, name)
        slots = self.shape.slots
        self._entries = entries = np.zeros(self.layout.cells, ENTRY)
        self._cell_of, self._used = np.full(slots, -1), np.zeros(slots, np.uint64)
        self._flags, self._stamps = (
            np.zeros(slots, np.uint32),
            np.zeros(slots, np.uint64),
        )  # 0 of a slot without episode
        self._sequence = self.damaged = 0
        if self.made is None:
            return
        directory = raw[self.layout.directory : self.layout.directory + entries.nbytes]
        entries[:] = np.frombuffer(directory, ENTRY)
        self._checksum = zlib.crc32(directory)  # as the writer keeps it
        valid = valid_entries(entries, slots)
        cells = np.flatnonzero(valid)
        cells = cells[np.argsort(entries["sequence"][cells])]
        self._cell_of[entries["slot"][cells]] = cells  # the latest entry of a slot holds
        self._sequence = int(entries["sequence"][cells].max(initial=0))
        self._take_in(np.flatnonzero(self._cell_of >= 0))
        self.damaged = missing(raw, self.layout, entries, valid, len(self.live()))
        if self.damaged and not self.salvage:
            raise MemoryFileError(
                f"{self.pages.name}: damaged, {self.damaged} episodes cannot be read; save the others with "
                "`bitmar memory export --salvage`, then import them into a new memory"
            )
        self._load_uses(raw)

    def _load_uses(self, raw: bytes) -> None:
        """When each slot was last written or recalled; a torn number falls back to the former."""
        uses = np.frombuffer(raw, "<u4", 2 * self.shape.slots, self.layout.uses).reshape(-1, 2)
        live = self.live()
        self._used[live] = self._entries["sequence"][self._cell_of[live]]
        for slot in live[uses[live, 0] > self._used[live]].tolist():
            number, checksum = uses[slot].tolist()
            if checksum == use_checksum(slot, number):
                self._used[slot] = number
        self._sequence = max(self._sequence, int(self._used.max()))

    def _take_in(self, slots: Ints) -> None:
        """The directory's entries of these slots."""
        cells = self._cell_of[slots]
        flags, sequence = self._entries["flags"][cells], self._entries["sequence"][cells]
        stamps = sequence << np.uint64(32) | self._entries["checksum"][cells]
        live = flags & LIVE != 0
        self._flags[slots], self._stamps[slots] = np.where(live, flags, 0), np.where(live, stamps, 0)

    def live(self) -> Ints:
        """The slots that hold an episode, ascending."""
        live: Ints = np.flatnonzero(self._flags)
        return live

    def usage(self) -> F32:
        """Of every slot (K,), in (0, 1]: 1 was written or recalled last, and each write since took the factor decay."""
        return self.usage_after(self._used)

    def usage_after(self, used: npt.NDArray[np.uint64]) -> F32:
        """Of slots that were last used at these numbers; 0: never."""
        age = np.float64(self._sequence) - used.astype(np.float64)
        usage: F32 = np.power(np.float64(self.decay), age).astype(np.float32)
        return usage

    def column(self, name: str, slots: Ints) -> F32:
        """One vector ("value", "image", "text") of each of these live slots, (n, width); zeros where there is none."""
        vectors: F32 = np.zeros((len(slots), self.layout.columns[name][1] // 2), np.float32)
        for place, data in self._cells(name, slots):
            vectors[place] = np.frombuffer(data, "<f2")
        if not np.isfinite(vectors).all():
            raise self._damage(name, int(slots[~np.isfinite(vectors).all(axis=1)][0]))
        return vectors

    def texts(self, slots: Ints) -> list[str]:
        """Of each of these live slots."""
        texts, lengths = [""] * len(slots), self._entries["text_bytes"][self._cell_of[slots]].tolist()
        for place, data in self._cells("record", slots):
            texts[place] = data[: lengths[place]].decode("utf-8", "replace")
        return texts

    def _cells(self, name: str, slots: Ints) -> Iterator[tuple[int, bytes]]:
        """The cells of these live slots, checked, in the order of the file, each with its place among the slots. Those
        that lie near each other are read at once.
        """
        start, width = self.layout.columns[name]
        order = np.argsort(self._cell_of[slots])
        cells = self._cell_of[slots][order]
        checksums = self._entries["checksums"][cells, COLUMNS.index(name)].tolist()
        begin = 0
        while begin < len(cells):
            first = int(cells[begin])
            end = int(np.searchsorted(cells, first + max(_BLOCK // width, 1)))
            data = self.pages.read(start + first * width, (int(cells[end - 1]) - first + 1) * width)
            for at in range(begin, end):
                place, offset = int(order[at]), (int(cells[at]) - first) * width
                cell = data[offset : offset + width]
                if zlib.crc32(cell, int(slots[place])) != checksums[at]:
                    raise self._damage(name, int(slots[place]))
                yield place, cell
            begin = end

    def has(self, name: str) -> npt.NDArray[np.bool_]:
        """Of every slot (K,): whether a live episode has this vector, "value", "image" or "text"."""
        found: npt.NDArray[np.bool_] = self._flags & {"value": LIVE, "image": IMAGE, "text": TEXT}[name] != 0
        return found

    def stamps(self, name: str) -> npt.NDArray[np.uint64]:
        """Of every slot (K,): another number for every other vector; 0 where there is none."""
        return np.where(self.has(name), self._stamps, np.uint64(0))

    def resident(self, name: str) -> Column:
        """A column in RAM, as far as it was read; `Column.follow` brings it up to date."""
        column = self._resident.get(name)
        if column is None or len(column.rows) != self.shape.slots:
            column = self._resident[name] = Column(self, name, self.shape.slots, self.layout.columns[name][1] // 2)
        return column

    def with_photo(self, photo: str | None) -> Ints:
        """The slots of episodes with a picture of this hash; with None, of those that know none of their picture."""
        hashed = self._flags & HASH != 0
        if photo is None:
            return np.flatnonzero(self.has("image") & ~hashed)
        slots = np.flatnonzero(self.has("image") & hashed)
        same: Ints = slots[self._entries["photo"][self._cell_of[slots]] == int(photo, 16)]
        return same

    def with_text(self, text: str) -> Ints:
        """The slots of episodes without a picture whose text is this one."""
        body = cut_text(text, TEXT_BYTES)[0]
        slots = np.flatnonzero(self.has("text") & ~self.has("image"))
        slots = slots[self._entries["text_bytes"][self._cell_of[slots]] == len(body)]
        same: Ints = slots[[one.encode() == body for one in self.texts(slots)]] if len(slots) else slots
        return same

    def episode(self, slot: int) -> Episode:
        """The record beside the vectors of a live slot."""
        ((_, data),) = self._cells("record", np.array([slot]))
        entry = self._entries[self._cell_of[slot]]
        flags = int(entry["flags"])
        (lost_time,) = LOST.unpack_from(data, TEXT_BYTES)
        texts = data[: int(entry["text_bytes"])], data[TEXT_BYTES + LOST.size :][: int(entry["lost_bytes"])]
        if not (0 <= float(entry["time"]) < MAX_TIME and 0 <= lost_time < MAX_TIME):
            raise self._damage("record", slot)
        text, lost_text = (part.decode("utf-8", "replace") for part in texts)
        lost = Lost(lost_text, lost_time) if lost_time else None
        photo = f"{int(entry['photo']):016x}" if flags & HASH else None
        usage = float(self.usage_after(self._used[slot]))
        return Episode(slot, text, float(entry["time"]), photo, usage, bool(flags & CUT), lost)

    def _damage(self, name: str, slot: int) -> MemoryFileError:
        return MemoryFileError(
            f"{self.pages.name}: the {name} of slot {slot} is damaged: `bitmar memory forget` that slot, or save the "
            "others with `bitmar memory export --salvage`"
        )

    def close(self) -> None:
        """Let go of the file. The object can still be used: it opens it anew."""
        self.pages.close()
        self._writing, self._raw = False, None
