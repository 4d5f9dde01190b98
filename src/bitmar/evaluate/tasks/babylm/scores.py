"""The result of a task of the pipeline: a figure, and the figures of its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bitmar.evaluate.figure import Figure, plain


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of the pipeline, which prints all of them times 100. parts: of its groups, by kind; a mean is over
    the groups of "UID"."""

    metric: Literal["accuracy", "spearman", "partial_r2"]
    figure: Figure
    parts: dict[str, dict[str, Figure]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`; score: the figure's value."""
        values = self.figure.to_dict()
        tied = (self.figure.ties or 0) / (self.figure.n or 1)
        return {
            "metric": self.metric,
            "score": values.pop("value"),
            **values,
            "tie_share": tied,
            "parts": plain(self.parts),
        }
