"""BLiMP (arXiv 1912.00582): of two sentences that differ in grammar alone, is the good one the likelier?

Sentences are compared by the sum of their tokens' log-probabilities given the begin token, as BabyLM's pipeline
does. A tie counts half: a model that says the same of everything gets 50 %, not 0 or 100.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from bitmar.core.errors import DataError
from bitmar.core.strict_json import parse_json
from bitmar.data.sources import OnBad
from bitmar.evaluate.archives import read_files
from bitmar.evaluate.scorer import OnProgress, Scorer

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences; file: the phenomenon's name; field: syntax, morphology, semantics, syntax_semantics."""

    good: str
    bad: str
    file: str
    field: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of pairs decided rightly, ties as halves; low to high: its 95 % interval over the pairs (Wilson)."""

    accuracy: float
    low: float
    high: float
    pairs: int
    ties: int

    @classmethod
    def of(cls, points: Sequence[float]) -> Accuracy:
        """From 1 for right, 0.5 for a tie, 0 for wrong; at least one."""
        n = len(points)
        p = sum(points) / n
        centre, scale = p + _Z**2 / (2 * n), 1 + _Z**2 / n
        spread = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        low, high = max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
        return cls(p, low, high, n, sum(point == 0.5 for point in points))


@dataclass(frozen=True, slots=True)
class BlimpReport:
    """accuracy: the mean over files, which is what BabyLM reports; low to high: its 95 % interval.

    pairs: the accuracy over all pairs; tie_share: of them. The interval covers the choice of sentences, not that of
    phenomena.
    """

    accuracy: float
    low: float
    high: float
    tie_share: float
    pairs: Accuracy
    by_field: dict[str, Accuracy]
    by_file: dict[str, Accuracy]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self)


def read_pairs(source: str | Path, on_bad: OnBad | None = None) -> list[Pair]:
    """The pairs of a .zip, a folder (searched to its depths) or a single .jsonl in BabyLM's layout.

    Lines need "sentence_good" and "sentence_bad"; "UID" (else the file's name) and "field" sort them. A line where one
    of these is no text goes to `on_bad` and is skipped. Nothing to read: DataError.
    """
    pairs = []
    for name, contents in read_files(Path(source), ".jsonl"):
        for number, line in enumerate(contents.splitlines(), 1):
            try:
                values = parse_json(line)
                good, bad = values["sentence_good"], values["sentence_bad"]
                uid, field = values.get("UID", Path(name).stem), values.get("field", "other")
                if not all(isinstance(text, str) and text for text in (good, bad, uid, field)):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                if on_bad is not None:
                    on_bad(f"{name}:{number}", 'not a line with "sentence_good" and "sentence_bad"')
                continue
            pairs.append(Pair(good, bad, uid, field.replace("/", "_")))  # one field is written both ways
    if not pairs:
        raise DataError(f"{source} holds no pairs: give BabyLM's blimp_filtered.zip, its folder, or a .jsonl of it")
    return pairs


def evaluate_blimp(model: Scorer, pairs: Sequence[Pair], *, on_progress: OnProgress | None = None) -> BlimpReport:
    """Score both sentences of every pair, at least one. `on_progress(n)`: sentences that are done."""
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    sums = [float(scores.sum(dtype="float64")) for scores in model.loglikelihood(sentences, on_progress=on_progress)]
    return report(pairs, [_points(good, bad) for good, bad in zip(sums[::2], sums[1::2], strict=True)])


def _points(good: float, bad: float) -> float:
    return 0.5 if good == bad else float(good > bad)


def report(pairs: Sequence[Pair], points: Sequence[float]) -> BlimpReport:
    """From a pair's points (1, 0.5 or 0) to accuracies by file and field."""
    by_file = _grouped(pairs, points, lambda pair: pair.file)
    overall = Accuracy.of(points)
    # The mean of F independent shares: its variance is the sum of theirs over F^2.
    mean = sum(a.accuracy for a in by_file.values()) / len(by_file)
    variance = sum(a.accuracy * (1 - a.accuracy) / a.pairs for a in by_file.values()) / len(by_file) ** 2
    return BlimpReport(
        accuracy=mean,
        low=max(0.0, mean - _Z * math.sqrt(variance)),
        high=min(1.0, mean + _Z * math.sqrt(variance)),
        tie_share=overall.ties / overall.pairs,
        pairs=overall,
        by_field=_grouped(pairs, points, lambda pair: pair.field),
        by_file=by_file,
    )


def _grouped(pairs: Iterable[Pair], points: Iterable[float], key: Callable[[Pair], str]) -> dict[str, Accuracy]:
    groups: dict[str, list[float]] = defaultdict(list)
    for pair, point in zip(pairs, points, strict=True):
        groups[key(pair)].append(point)
    return {name: Accuracy.of(found) for name, found in sorted(groups.items())}
