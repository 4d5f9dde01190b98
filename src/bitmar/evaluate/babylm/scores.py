"""From points to a score with its 95 % interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import DependencyError, pip_install
from bitmar.evaluate.blimp import Accuracy

F64 = npt.NDArray[np.float64]
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Score:
    """A figure of the pipeline. The pipeline prints all of them times 100.

    score: None where it is undefined (a correlation of something that is always the same). low to high: its 95 %
    interval over the items, the choice of subsets taken as given. ties: items whose best options are equally likely.
    chance: what a model that knows nothing is expected to get. parts: the accuracies that a mean is of.
    """

    metric: Literal["accuracy", "spearman", "partial_r2"]
    score: float | None
    low: float | None
    high: float | None
    n: int
    ties: int
    chance: float
    parts: dict[str, dict[str, Accuracy]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {**asdict(self), "tie_share": self.ties / self.n}


def accuracy(points: Sequence[float]) -> Accuracy:
    """From the points of at least one item: 1 for right, 0 for wrong, what lies between for a tie."""
    return replace(Accuracy.of(points), ties=sum(0 < point < 1 for point in points))


def grouped(points: Sequence[float], groups: Sequence[str]) -> dict[str, Accuracy]:
    """The accuracy in each group."""
    found: dict[str, list[float]] = defaultdict(list)
    for point, group in zip(points, groups, strict=True):
        found[group].append(point)
    return {group: accuracy(some) for group, some in sorted(found.items())}


def mean_accuracy(
    points: Sequence[float],
    chance: float,
    parts: dict[str, dict[str, Accuracy]],
    weights: Mapping[str, float] | None = None,
) -> Score:
    """The mean over the groups of `parts["UID"]`, weighted evenly unless told otherwise (weights sum up to 1)."""
    groups = parts["UID"]
    if weights is None:
        weights = dict.fromkeys(groups, 1 / len(groups))
    overall = accuracy(points)
    if len(groups) == 1:
        mean, low, high = overall.accuracy, overall.low, overall.high
    else:  # a sum of independent shares
        mean = sum(weight * groups[name].accuracy for name, weight in weights.items())
        variance = sum(weight**2 * _variance(groups[name]) for name, weight in weights.items())
        low, high = max(0.0, mean - Z * math.sqrt(variance)), min(1.0, mean + Z * math.sqrt(variance))
    return Score("accuracy", mean, low, high, len(points), overall.ties, chance, parts)


def _variance(group: Accuracy) -> float:
    """Of a share; two successes and failures more (Agresti and Coull 1998), so that 3 of 3 is not certain."""
    p = (group.accuracy * group.pairs + 2) / (group.pairs + 4)
    return p * (1 - p) / group.pairs


def spearman(model: F64, human: F64, *, n: int | None = None, ties: int = 0) -> Score:
    """Spearman's rank correlation of two arrays (m,).

    The interval is Fisher's, with the variance of Bonett and Wright (2000, Psychometrika 65:23-28). n: independent
    items, where there are fewer than values (pairs of pictures). Raises DependencyError without scipy.
    """
    n = len(model) if n is None else n
    if n < 4 or np.ptp(model) == 0 or np.ptp(human) == 0:
        return Score("spearman", None, None, None, n, ties, 0.0)
    try:
        from scipy.stats import spearmanr
    except ModuleNotFoundError as error:
        raise DependencyError(f"correlations need scipy: {pip_install('eval')}") from error

    rho = float(spearmanr(model, human)[0])
    centre = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
    spread = Z * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return Score("spearman", rho, math.tanh(centre - spread), math.tanh(centre + spread), n, ties, 0.0)
