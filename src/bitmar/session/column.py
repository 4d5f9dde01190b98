"""A column of a `.mem` file in RAM, which follows the file: what a write has changed is read, and nothing else."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from bitmar.core.ternary import F32
from bitmar.session.layout import Ints

_AT_ONCE = 1024  # slots


class Source(Protocol):
    """The interface of a memory file to a column; `MemoryReader` has it."""

    def stamps(self, name: str) -> npt.NDArray[np.uint64]: ...

    def column(self, name: str, slots: Ints) -> F32: ...

    def texts(self, slots: Ints) -> list[str]: ...


class Column:
    """One vector of every slot, rows (K, width); zeros where there is none. texts: of the slots, where they are wanted.

    Rows that were never written take no memory.
    """

    def __init__(self, file: Source, name: str, slots: int, width: int) -> None:
        self._file, self.name = file, name
        self.rows: F32 = np.zeros((slots, width), np.float32)
        self.texts: dict[int, str] = {}
        self.stamps = np.zeros(
            slots, np.uint64
        )  # of each row: another one for every other content; 0 where there is none

    def follow(self) -> Column:
        """Read what the file holds now. Raises MemoryFileError; what was read until then need not be read again."""
        now = self._file.stamps(self.name)
        changed = np.flatnonzero(now != self.stamps)
        for begin in range(0, len(changed), _AT_ONCE):
            slots = changed[begin : begin + _AT_ONCE]
            there = slots[now[slots] != 0]
            vectors = self._file.column(self.name, there)
            texts = self._file.texts(there) if self.name == "text" else []
            gone = slots[now[slots] == 0]
            self.rows[gone], self.rows[there] = 0, vectors
            for slot in gone.tolist():
                self.texts.pop(slot, None)
            self.texts.update(zip(there.tolist(), texts, strict=False))
            self.stamps[slots] = now[slots]
        return self
