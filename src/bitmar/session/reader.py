"""Reading a `.mem` file: what is whole of it, and one state of it beside a program that writes."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import MemoryBusyError, MemoryFileError
from bitmar.core.ternary import F32
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
    use_checksum,
)
from bitmar.session.pages import Pages
from bitmar.session.verify import missing, read_header, valid_entries

_PATIENCE = 5.0  # seconds of a reader that a writer keeps overtaking
_T = TypeVar("_T")


class MemoryReader:
    """What `MemoryFile` reads, and the checks that come with it; there is what the arguments mean."""

    def __init__(self, pages: Pages, shape: Shape, model: str, *, decay: float = 0.99, salvage: bool = False) -> None:
        if not 1 <= shape.slots <= MAX_SLOTS:
            raise MemoryFileError(f"a memory has from 1 to {MAX_SLOTS} slots, not {shape.slots}")
        self.pages, self.shape, self.model, self.decay, self.salvage = pages, shape, model, decay, salvage
        self.layout = Layout(shape)
        self._head_bytes = self.layout.head  # no version's is longer
        self.version = 0  # changes whenever what can be read does
        self._raw: bytearray | None = None
        self._writing = False
        self.refresh()

    @property
    def size(self) -> int:
        """Bytes."""
        size: int = self.layout.size
        return size

    # Reading.

    def refresh(self) -> None:
        """Take in what another program has written since. A writer is alone, and whatever has changed is an error."""
        try:
            if self.pages.renew():
                self.close()
        except MemoryFileError:
            self.close()
            raise
        raw = self.pages.read(0, self._head_bytes)
        if self._raw is not None and raw == self._raw:
            return
        if self._writing:
            self.close()
            raise MemoryFileError(
                f"{self.pages.name}: another program has changed it while it was being written: look at what it holds "
                "now, and remember again what is missing"
            )
        raw = self._load_still(raw)
        self._raw = bytearray(raw)
        self.version += 1

    def consistently(self, read: Callable[[], _T]) -> _T:
        """What `read` returns, from one state of the file: repeated if another program wrote in the meantime."""
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
                again = self.pages.read(0, self._head_bytes)
                if again == raw:
                    raise
                raw = again
            self._wait(deadline)

    def _wait(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise MemoryBusyError(f"{self.pages.name}: another program writes it without a pause: try again")
        time.sleep(0.001)

    def _load(self, raw: bytes) -> None:
        self.layout, self.made = read_header(raw, self.pages.size(), self.shape, self.model, self.pages.name)
        self._entries = np.zeros(self.layout.cells, ENTRY)
        self._cell_of, self._used = np.full(self.shape.slots, -1), np.zeros(self.shape.slots, np.uint64)
        self._sequence = self.damaged = 0
        if self.made is None:
            return
        entries = self._entries
        directory = raw[self.layout.directory : self.layout.directory + entries.nbytes]
        entries[:] = np.frombuffer(directory, ENTRY)
        valid = valid_entries(entries, self.shape.slots)
        for cell in sorted(np.flatnonzero(valid), key=lambda cell: int(entries["sequence"][cell])):
            self._cell_of[entries["slot"][cell]] = cell  # the latest entry of a slot holds
            self._sequence = int(entries["sequence"][cell])
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
        for slot in self.live():
            number, checksum = uses[slot].tolist()
            written = int(self._entries["sequence"][self._cell_of[slot]])
            self._used[slot] = max(written, number if checksum == use_checksum(slot, number) else 0)
        self._sequence = max(self._sequence, int(self._used.max()))

    def live(self) -> Ints:
        """The slots that hold an episode, ascending."""
        cells = self._cell_of
        live: Ints = np.flatnonzero((cells >= 0) & (self._entries["flags"][cells] & LIVE != 0))
        return live

    def usage(self) -> F32:
        """Of every slot (K,), in (0, 1]: 1 was written or recalled last, and each write since took the factor decay."""
        age = np.float64(self._sequence) - self._used.astype(np.float64)
        usage: F32 = np.power(np.float64(self.decay), age).astype(np.float32)
        return usage

    def column(self, name: str, slots: Ints) -> F32:
        """One vector ("value", "image", "text") of each of these live slots, (n, width); zeros where there is none."""
        start, width = self.layout.columns[name]
        if not len(slots):
            return np.zeros((0, width // 2), np.float32)
        data = self.pages.read(start, width * self.layout.cells)
        for slot in slots:
            cell = self._cell_of[slot]
            self._check(name, int(slot), data[cell * width : (cell + 1) * width])
        vectors: F32 = (
            np.frombuffer(data, "<f2").reshape(self.layout.cells, -1)[self._cell_of[slots]].astype(np.float32)
        )
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

    def with_photo(self, photo: str | None) -> Ints:
        """The slots of episodes with a picture of this hash; with None, of those that know none of their picture."""
        slots = np.flatnonzero(self.has("image"))
        entries = self._entries[self._cell_of[slots]]
        hashed = entries["flags"] & HASH != 0
        same: Ints = slots[~hashed if photo is None else hashed & (entries["photo"] == int(photo, 16))]
        return same

    def with_text(self, text: str) -> Ints:
        """The slots of episodes without a picture whose text is this one."""
        body = cut_text(text, TEXT_BYTES)[0]
        slots = np.flatnonzero(self.has("text") & ~self.has("image"))
        slots = slots[self._entries["text_bytes"][self._cell_of[slots]] == len(body)]
        return np.array([slot for slot in slots if self.episode(int(slot)).text.encode() == body], np.int64)

    def episode(self, slot: int) -> Episode:
        """What stands beside the vectors of a live slot."""
        start, width = self.layout.columns["record"]
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
        photo = f"{int(entry['photo']):016x}" if flags & HASH else None
        return Episode(slot, text, float(entry["time"]), photo, float(self.usage()[slot]), bool(flags & CUT), lost)

    def _check(self, name: str, slot: int, data: bytes) -> None:
        entry = self._entries[self._cell_of[slot]]
        if zlib.crc32(data, slot) != int(entry["checksums"][COLUMNS.index(name)]):
            raise self._damage(name, slot)

    def _damage(self, name: str, slot: int) -> MemoryFileError:
        return MemoryFileError(
            f"{self.pages.name}: the {name} of slot {slot} is damaged: `bitmar memory forget` that slot, or save the "
            "others with `bitmar memory export --salvage`"
        )

    def close(self) -> None:
        """Let go of the file. The object can still be used: it opens it anew."""
        self.pages.close()
        self._writing, self._raw = False, None
