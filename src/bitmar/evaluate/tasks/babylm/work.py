"""A task's options besides the model and the data: how many items, and the callbacks for progress and bad items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bitmar.data.sources import OnBad

T = TypeVar("T")


def _nobody(*_: object) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Work:
    """limit: items of a task, None for all. on_bad(name, reason): a line or picture that is skipped.

    on_progress(done, total): texts, or pictures, of the task.
    """

    limit: int | None = None
    on_bad: OnBad = _nobody
    on_progress: Callable[[int, int], None] = _nobody

    def some(self, items: Sequence[T]) -> list[T]:
        """`limit` of the items, evenly spread, so that every file of a task is among them; all without a limit."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        return [items[i * len(items) // self.limit] for i in range(self.limit)]
