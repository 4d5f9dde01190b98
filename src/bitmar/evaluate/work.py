"""A task's context besides model and data: how many items, the store of an earlier run, and progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bitmar.data.sources import OnBad
from bitmar.evaluate.protocol import OnProgress
from bitmar.evaluate.store import Store

T = TypeVar("T")

OnStep = Callable[[str, int | None, int | None], None]
"""Called with what is measured, units done (None: one more) and units there are (None: unknown)."""


def nobody(*_: object) -> None:
    """Is told everything."""


@dataclass(frozen=True, slots=True)
class Work:
    """limit: items, None for all. store: results that need not be computed again, None where nothing is kept.

    figures: where pictures are drawn, in a report. on_bad(name, reason): a line or photo that is skipped. on_step:
    progress. name: of the part that is measured.
    """

    limit: int | None = None
    store: Store | None = None
    figures: Path | None = None
    on_bad: OnBad = nobody
    on_step: OnStep = nobody
    name: str = ""

    def progress(self, what: str, total: int | None = None) -> OnProgress:
        """Takes the number of units done."""
        return lambda done: self.on_step(what, done, total)

    def some(self, items: Sequence[T]) -> list[T]:
        """`limit` of the items, evenly spread, so that every file of a task is among them; all without a limit."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        return [items[i * len(items) // self.limit] for i in range(self.limit)]

    def at_most(self, count: int) -> int:
        """`count`, or the limit where that is less."""
        return count if self.limit is None else min(count, self.limit)
