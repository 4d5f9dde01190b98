"""One figure of several variants of a model, and whether they differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bitmar.evaluate.figure import F64, Figure

PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class Measure:
    """A figure over units (documents, photos, pairs, runs) that all variants have in common.

    values: per variant a number for each unit (n,). weights: of each unit (n,), such as its number of tokens.
    The figure is the sum of the values by that of the weights, for the unit PERPLEXITY e to that. cost: of time or RAM.
    """

    task: str
    name: str
    unit: str
    better: Literal["lower", "higher"]
    values: Mapping[str, F64]
    weights: F64
    cost: bool = False

    @property
    def units(self) -> int:
        """n."""
        return len(self.weights)

    def figure(self, variant: str) -> float:
        """Of one variant."""
        mean = float(self.values[variant].sum() / self.weights.sum())
        return math.exp(mean) if self.unit == PERPLEXITY else mean

    def difference(self, first: str, second: str) -> Figure:
        """First less second with its 95 % interval over the units, which both get alike; of perplexities, the share.

        Fewer than two units say nothing about chance: their interval has no end.
        """
        found = Figure.bootstrap(self.values[first] - self.values[second], self.weights)
        if self.unit == PERPLEXITY:
            found = found.map(math.expm1)
        return found if self.units > 1 else Figure(found.value, -math.inf, math.inf)

    def verdict(self, first: str, second: str) -> str:
        """Whether having the first and not the second "helps", "hurts", or "no difference shown"."""
        found = self.difference(first, second)
        sign = int(found.low > 0) - int(found.high < 0)
        return {1: "helps", -1: "hurts", 0: "no difference shown"}[sign * (1 if self.better == "higher" else -1)]
