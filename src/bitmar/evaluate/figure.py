"""A figure and its 95 % interval: the one type of everything that is measured, and the ways to come by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import DependencyError, pip_install

F64 = npt.NDArray[np.float64]
Numbers = Sequence[float] | npt.NDArray[Any]

Z = NormalDist().inv_cdf(0.975)
RESAMPLES = 2000
_ROWS = 64  # resamples drawn at once


@dataclass(frozen=True, slots=True)
class Figure:
    """value, and low to high, its 95 % interval over the items. NaN where it is undefined, an end at infinity where it
    has none.

    n: items. ties: of them, those whose best answers are equally likely. chance: the value of a model that knows
    nothing. Each is None where it means nothing.
    """

    value: float
    low: float
    high: float
    n: int | None = None
    ties: int | None = None
    chance: float | None = None

    @classmethod
    def share(cls, points: Sequence[float], chance: float | None = None) -> Figure:
        """Of at least one item: 1 for right, 0 for wrong, between them for a tie. The interval is Wilson's (1927)."""
        n = len(points)
        p = sum(points) / n
        centre, scale = p + Z**2 / (2 * n), 1 + Z**2 / n
        spread = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        low, high = max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
        return cls(p, low, high, n, sum(0 < point < 1 for point in points), chance)

    @classmethod
    def mean_share(
        cls, points: Sequence[float], groups: Sequence[str], weigh: Mapping[str, float] | None = None, **more: Any
    ) -> Figure:
        """The mean over groups of the share in each, weighted evenly unless told otherwise (weights sum up to 1).

        The interval is the normal one, the choice of groups taken as given; with one group it is Wilson's.
        """
        overall, parts = cls.share(points), shares(points, groups)
        if len(parts) == 1:
            mean, low, high = overall.value, overall.low, overall.high
        else:  # a sum of independent shares
            weights = weigh or dict.fromkeys(parts, 1 / len(parts))
            mean = sum(weight * parts[name].value for name, weight in weights.items())
            spread = Z * math.sqrt(sum(weight**2 * _variance(parts[name]) for name, weight in weights.items()))
            low, high = max(0.0, mean - spread), min(1.0, mean + spread)
        return cls(mean, low, high, overall.n, overall.ties, **more)

    @classmethod
    def bootstrap(cls, numerator: Numbers, denominator: Numbers | None = None, *, seed: int = 0) -> Figure:
        """sum(numerator) / sum(denominator) over the same photos (n,), n >= 1; without a denominator, the mean.

        The interval holds the 2.5 and 97.5 percentiles over resamples of photos (Efron 1979). A denominator is at least
        0, and somewhere above it. Two conditions are compared by giving their differences: what they share cancels. The
        seed makes it repeatable.
        """
        top = np.asarray(numerator, np.float64)
        bottom = np.ones_like(top) if denominator is None else np.asarray(denominator, np.float64)
        rng, n = np.random.default_rng(seed), len(top)
        found: list[F64] = []
        for start in range(0, RESAMPLES, _ROWS):
            picked = rng.integers(0, n, (min(_ROWS, RESAMPLES - start), n))
            below = bottom[picked].sum(axis=1)
            found.append(top[picked].sum(axis=1)[below > 0] / below[below > 0])  # a draw of empty photos says nothing
        low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
        return cls(float(top.sum() / bottom.sum()), float(low), float(high), n)

    @classmethod
    def rank_correlation(cls, model: F64, human: F64, *, n: int | None = None, ties: int = 0) -> Figure:
        """Spearman's rank correlation of two arrays (m,), undefined where one of them is always the same.

        The interval is Fisher's, with the variance of Bonett and Wright (2000, Psychometrika 65:23-28). n: independent
        items, where there are fewer than values (pairs of pictures). Raises DependencyError without scipy.
        """
        n = len(model) if n is None else n
        if n < 4 or np.ptp(model) == 0 or np.ptp(human) == 0:
            return cls.undefined(n, ties)
        try:
            from scipy.stats import spearmanr
        except ModuleNotFoundError as error:
            raise DependencyError(f"correlations need scipy: {pip_install('eval')}") from error

        rho = float(spearmanr(model, human)[0])
        centre = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
        spread = Z * math.sqrt((1 + rho**2 / 2) / (n - 3))
        return cls(rho, math.tanh(centre - spread), math.tanh(centre + spread), n, ties, 0.0)

    @classmethod
    def undefined(cls, n: int, ties: int = 0) -> Figure:
        """No figure: the items say nothing."""
        return cls(math.nan, math.nan, math.nan, n, ties, 0.0)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Figure:
        """The inverse of `to_dict`. Raises KeyError or TypeError for others."""
        value, low, high = (math.nan if values[end] is None else float(values[end]) for end in ("value", "low", "high"))
        return cls(value, low, high, values.get("n"), values.get("ties"), values.get("chance"))

    def map(self, function: Callable[[float], float]) -> Figure:
        """This figure through an increasing function, such as exp."""
        value, low, high = (float(function(x)) for x in (self.value, self.low, self.high))
        return Figure(value, low, high, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`, which has no word for NaN and infinity: None."""
        ends = {name: _finite(getattr(self, name)) for name in ("value", "low", "high")}
        rest = {"n": self.n, "ties": self.ties, "chance": self.chance}
        return ends | {name: value for name, value in rest.items() if value is not None}

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def shares(points: Sequence[float], groups: Sequence[str]) -> dict[str, Figure]:
    """The share in each group, by name."""
    found: dict[str, list[float]] = {}
    for point, group in zip(points, groups, strict=True):
        found.setdefault(group, []).append(point)
    return {group: Figure.share(some) for group, some in sorted(found.items())}


def plain(value: Any) -> Any:
    """A report, whatever dataclasses, figures and containers it is made of, ready for `json.dumps`."""
    if isinstance(value, Figure):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _variance(group: Figure) -> float:
    """Of a share; two successes and failures more (Agresti and Coull 1998), so that 3 of 3 is not certain."""
    assert group.n is not None
    p = (group.value * group.n + 2) / (group.n + 4)
    return p * (1 - p) / group.n


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
