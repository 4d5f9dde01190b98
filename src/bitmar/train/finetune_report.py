"""Metrics of fine-tuning with their intervals, beside those of the commonest class in training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import DataError, DependencyError, pip_install
from bitmar.evaluate.figure import Figure

REPORT = "report.json"
_DRAWS = 2000  # of the bootstrap
_Classes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SeedResult:
    """epoch: the best one, from 1, whose weights were kept. history: every epoch's metrics on the validation file."""

    seed: int
    epoch: int
    metrics: dict[str, Figure]
    history: list[dict[str, float]]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SeedResult:
        """The inverse of `asdict`."""
        return cls(**{**values, "metrics": _intervals(values["metrics"])})


@dataclass(frozen=True, slots=True)
class FinetuneReport:
    """Shares between 0 and 1 (mcc from -1), of the lines in `split`, "valid" or "test".

    items, trained: lines measured, lines trained on. metric: what chose the epochs. mean: over the seeds; its interval
    covers the choice of test items, that of `over_seeds` (Student's t; None for a single seed) the choice of seeds.
    majority: the metrics of always answering `majority_label`, the commonest in training. paper: BitMar's accuracy in
    Table 2, in %. files: their SHA-256. protocol: every number of the training. skipped: lines that could not be used,
    by split.
    """

    task: str
    model: str
    split: str
    items: int
    trained: int
    labels: list[int | str]
    metric: str
    mean: dict[str, Figure]
    over_seeds: dict[str, Figure] | None
    majority_label: int | str
    majority: dict[str, float]
    paper: float | None
    seeds: list[SeedResult]
    skipped: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def above_majority(self) -> bool:
        """Whether the whole interval of the accuracy lies above that of the commonest class."""
        return self.mean["accuracy"].low > self.majority["accuracy"]

    @property
    def training(self) -> str:
        """What was trained, on how much, for how long."""
        what = "head alone" if self.protocol.get("frozen") else "all weights"
        epochs, rate = self.protocol["epochs"], self.protocol["learning_rate"]
        return f"{what}, {epochs} epoch{'s' * (epochs != 1)} of {self.trained:,} lines at {rate:g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {**asdict(self), "above_majority": self.above_majority, "training": self.training}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneReport:
        """The inverse of `to_dict`. Raises KeyError, TypeError or AttributeError for others."""
        plain = {name: values[name] for name in cls.__dataclass_fields__}
        over = plain["over_seeds"]
        seeds = [SeedResult.from_dict(seed) for seed in plain["seeds"]]
        mean, over_seeds = _intervals(plain["mean"]), None if over is None else _intervals(over)
        return cls(**{**plain, "mean": mean, "over_seeds": over_seeds, "seeds": seeds})


def _intervals(values: Mapping[str, Any]) -> dict[str, Figure]:
    return {name: Figure(**value) for name, value in values.items()}


def read_report(folder: str | Path) -> FinetuneReport:
    """The report of a finished run. Raises DataError for a folder without one."""
    path = Path(folder) / REPORT
    try:
        return FinetuneReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise DataError(f"no {path}: the fine-tuning there is not finished, run its command again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error!r:.80}): delete it and run the fine-tuning again") from error


def measure(labels: _Classes, predictions: Sequence[_Classes], classes: int) -> dict[str, Figure]:
    """Figure, F1 and Matthews correlation of the predictions (n,) of one or more seeds, as means over these.

    labels: (n,) in 0..classes-1. F1 is that of class 1 where there are two, else the mean over the classes. Intervals
    are over the items: Wilson's for the accuracy, a bootstrap's for the others.
    """
    points = [point_metrics(labels, predicted, classes) for predicted in predictions]
    means = {name: float(np.mean([metrics[name] for metrics in points])) for name in points[0]}
    right = np.mean([predicted == labels for predicted in predictions], axis=0)
    accuracy = Figure.share(right.tolist())
    # Resampling lines is drawing from the table of (label, prediction of every seed): a few cells, not n lines.
    cells, counts = np.unique(np.stack([labels, *predictions]), axis=1, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), _DRAWS)
    tables = [_tables(cells[0], guesses, draws, classes) for guesses in cells[1:]]
    found = {"accuracy": Figure(means["accuracy"], accuracy.low, accuracy.high)}
    for name, metric in (("f1", _f1), ("mcc", _mcc)):
        low, high = np.quantile(np.mean([metric(table) for table in tables], axis=0), [0.025, 0.975])
        found[name] = Figure(means[name], float(low), float(high))
    return found


def point_metrics(labels: _Classes, predicted: _Classes, classes: int) -> dict[str, float]:
    """The same figures without intervals, of one set of predictions, by scikit-learn."""
    try:
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
    except ModuleNotFoundError as error:
        raise DependencyError(f"fine-tuning needs {error.name}: {pip_install('train')}") from error
    positive = [1] if classes == 2 else list(range(classes))
    f1 = f1_score(labels, predicted, labels=positive, average="macro", zero_division=0)
    accuracy, mcc = accuracy_score(labels, predicted), matthews_corrcoef(labels, predicted)
    return {"accuracy": float(accuracy), "f1": float(f1), "mcc": float(mcc)}


# scikit-learn takes milliseconds a call; a bootstrap needs thousands. So, for intervals alone, all draws at once.


def _tables(truth: _Classes, guesses: _Classes, draws: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
    """Cells (m,) with their counts in every draw (R, m) -> tables of label by prediction, float (R, C, C)."""
    tables = np.zeros((len(draws), classes, classes))
    for i, (label, guess) in enumerate(zip(truth, guesses, strict=True)):
        tables[:, label, guess] += draws[:, i]
    return tables


def _f1(tables: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """2 TP / (2 TP + FP + FN), as `measure` has it, of each table."""
    right = tables.diagonal(axis1=1, axis2=2)
    each: npt.NDArray[Any] = (
        2 * right / np.maximum(tables.sum(1) + tables.sum(2), 1)
    )  # the denominator is a count: 0, or at least 1
    return each[:, 1] if tables.shape[1] == 2 else each.mean(1)


def _mcc(tables: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Gorodkin's R_K of each table; 0 where all labels or all predictions are one class."""
    n, right = tables.sum((1, 2)), tables.diagonal(axis1=1, axis2=2).sum(1)
    truth, guessed = tables.sum(2), tables.sum(1)
    spread = np.sqrt((n**2 - (truth**2).sum(1)) * (n**2 - (guessed**2).sum(1)))
    found: npt.NDArray[Any] = (right * n - (truth * guessed).sum(1)) / np.where(spread == 0, np.inf, spread)
    return found


def seed_intervals(seeds: Sequence[Mapping[str, Figure]]) -> dict[str, Figure] | None:
    """Mean over the seeds with Student's interval; None for a single seed."""
    if len(seeds) < 2:
        return None
    from scipy.stats import t

    found = {}
    for name in seeds[0]:
        values = np.array([metrics[name].value for metrics in seeds])
        spread = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
        mean = float(values.mean())
        found[name] = Figure(mean, mean - spread, mean + spread)
    return found
