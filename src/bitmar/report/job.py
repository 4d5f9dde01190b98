"""The input of a section: a model, the data, a limit, a path for unfinished work, and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitmar.api import BitMar
from bitmar.evaluate.scorer import RuntimeScorer, load_scorer
from bitmar.evaluate.store import ResultLog
from bitmar.report.data import Absent, EvalData

OURS, TEXT, BASELINE, PEER = "ours", "text", "baseline", "peer"

OnStep = Callable[[str, int | None, int | None], None]
"""Called with what is measured, units done (None: one more) and units there are (None: unknown)."""


@dataclass
class Contestant:
    """A model in the report. role: OURS, TEXT, BASELINE or PEER. source: as `load_scorer` takes it; of a peer, its name
    on the Hub. title: of its column."""

    role: str
    source: str | None
    title: str
    _scorer: Any = field(default=None, repr=False)

    @property
    def key(self) -> str:
        """Its name in report.json: the role, with the source where there can be several."""
        return self.role if self.role in (OURS, TEXT) else f"{self.role} {self.source}"

    def load(self) -> None:
        """Raise what `load_scorer` raises, now; the harness loads a peer itself."""
        if self.role != PEER:
            assert self.scorer is not None

    @property
    def scorer(self) -> Any:
        """The loaded model, which it stays. Raises what `load_scorer` raises."""
        if self._scorer is None:
            self._scorer = load_scorer(self.source)
        return self._scorer


@dataclass
class Job:
    """One section of one contestant. partial: a path for half-finished work, to which a suffix is added."""

    contestant: Contestant
    data: EvalData
    limit: int | None
    partial: Path
    figures: Path
    run: Path | None = None
    finetuned: Path | None = None
    task: dict[str, Any] = field(default_factory=dict)
    on_step: OnStep = lambda name, done, total: None
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def scorer(self) -> Any:
        """The model, loaded as one of the scorers of `evaluate.scorer`."""
        return self.contestant.scorer

    @property
    def packed(self) -> BitMar:
        """The packed model; Absent for one that only PyTorch can load."""
        if not isinstance(self.scorer, RuntimeScorer):
            raise Absent("this needs a packed model: make one with `bitmar export`")
        return self.scorer.model

    def sees(self) -> None:
        """Raise Absent for a model that takes no photos."""
        if not self.scorer.has_tower:
            raise Absent("the model has no vision tower and cannot see photos")

    def on_bad(self, name: str, reason: str) -> None:
        """Note a sample that is left out."""
        self.skipped.setdefault(name, reason)

    def log(self) -> ResultLog:
        """The log of unfinished work of this very job; its task is the job's key."""
        return ResultLog(self.half_done(".log"), self.task)

    def half_done(self, suffix: str) -> Path:
        """A file for what is not finished yet; it is deleted with the section's end."""
        return self.partial.with_name(self.partial.name + suffix)

    def at_most(self, count: int) -> int:
        """`count`, or the limit where that is less."""
        return count if self.limit is None else min(count, self.limit)
