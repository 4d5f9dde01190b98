"""The indices that recall searches, by picture and by text; they follow the file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitmar.session.column import Column
from bitmar.session.layout import Ints
from bitmar.session.reader import MemoryReader
from bitmar.session.recall import Background, Index


@dataclass(slots=True)
class _Known:
    """An index, the column that it was made of, and the stamps (`Column`) that the column had then."""

    column: Column
    stamps: npt.NDArray[np.uint64]
    index: Index


class Indices:
    """Made at the first use; after a write only what it has changed is taken in."""

    def __init__(self, file: MemoryReader, background: Background | None) -> None:
        self._file, self._background = file, background
        self._known: dict[str, _Known] = {}

    def of(self, kind: str) -> Index | None:
        """By "image" or by "text", up to date; None without an episode that has such a key. Raises MemoryFileError."""
        column = self._file.resident(kind).follow()
        slots: Ints = np.flatnonzero(column.stamps)
        known = self._known.pop(kind, None)  # put back when it is whole
        if not len(slots):
            return None
        if known is None or known.column is not column:
            texts, background = (column.texts, None) if kind == "text" else (None, self._background)
            known = _Known(column, column.stamps.copy(), Index(slots, column.rows, texts, background))
        elif len(changed := np.flatnonzero(known.stamps != column.stamps)):
            known.index.follow(changed, slots)
            known.stamps[changed] = column.stamps[changed]
        self._known[kind] = known
        return known.index
