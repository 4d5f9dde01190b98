"""Intervals by the bootstrap (Efron 1979): how far a figure would move with another draw of photos.

Every figure is a ratio of two sums over photos (a mean: the second counts 1 a photo), so one set of resampling counts
serves all, and what two conditions share cancels in their paired difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = Sequence[float] | npt.NDArray[Any]

RESAMPLES = 2000
_ROWS = 64  # resamples drawn at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval, the 2.5 and 97.5 percentiles over resamples."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def bootstrap(numerator: Numbers, denominator: Numbers | None = None, *, seed: int = 0) -> Interval:
    """sum(numerator) / sum(denominator) over the same photos (n,), n >= 1; without a denominator, the mean.

    A denominator is at least 0, and somewhere above it.
    Two conditions are compared by giving their differences. The seed makes it repeatable.
    """
    top = np.asarray(numerator, np.float64)
    bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, np.float64)
    rng, n = np.random.default_rng(seed), len(top)
    found: list[npt.NDArray[np.float64]] = []
    for start in range(0, RESAMPLES, _ROWS):
        picked = rng.integers(0, n, (min(_ROWS, RESAMPLES - start), n))
        below = bottom[picked].sum(axis=1)
        found.append(top[picked].sum(axis=1)[below > 0] / below[below > 0])  # a draw of empty photos says nothing
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high))


def transformed(interval: Interval, function: Any) -> Interval:
    """This interval mapped by an increasing function, such as exp."""
    return Interval(*(float(function(x)) for x in (interval.value, interval.low, interval.high)))
