"""Metrics against scikit-learn's own, intervals against what they promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="metrics need bitmar[train]")
from sklearn.metrics import f1_score, matthews_corrcoef

from bitmar.core.errors import DataError
from bitmar.evaluate.figure import Figure
from bitmar.train.finetune_report import (
    REPORT,
    FinetuneReport,
    SeedResult,
    _f1,
    _mcc,
    _tables,
    measure,
    point_metrics,
    read_report,
    seed_intervals,
)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_figures_are_those_of_all_lines(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels, predicted = rng.integers(0, classes, (2, 300))
    found = measure(labels, [predicted], classes)
    assert found["accuracy"].value == pytest.approx((labels == predicted).mean())
    average = "binary" if classes == 2 else "macro"
    assert found["f1"].value == pytest.approx(f1_score(labels, predicted, average=average))
    assert found["mcc"].value == pytest.approx(matthews_corrcoef(labels, predicted))
    assert {name: value.value for name, value in found.items()} == pytest.approx(
        point_metrics(labels, predicted, classes)
    )
    for value in found.values():
        assert value.low < value.value < value.high


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("classes", [2, 3])
def test_the_draws_are_measured_as_the_lines_are(classes: int) -> None:
    rng = np.random.default_rng(classes)
    for labels, predicted in (*rng.integers(0, classes, (20, 2, 9)), np.zeros((2, 5), int), np.eye(2, 4, dtype=int)):
        cells, counts = np.unique(np.stack([labels, predicted]), axis=1, return_counts=True)
        table = _tables(*cells, counts[None], classes)
        expected = point_metrics(labels, predicted, classes)
        assert (_f1(table)[0], _mcc(table)[0]) == pytest.approx((expected["f1"], expected["mcc"]))


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """A guesser that is right three times in four, on 100 lines, 100 times."""
    rng = np.random.default_rng(0)
    hits = {"accuracy": 0, "f1": 0}
    for _ in range(100):
        labels = rng.integers(0, 2, 100)
        found = measure(labels, [np.where(rng.random(100) < 0.75, labels, 1 - labels)], 2)
        for name in hits:  # balanced, so the F1 of all possible lines is 0.75 too
            hits[name] += found[name].low <= 0.75 <= found[name].high
    assert all(88 <= count <= 99 for count in hits.values()), hits


def test_of_several_seeds_the_mean() -> None:
    rng = np.random.default_rng(1)
    labels, *predicted = rng.integers(0, 2, (4, 80))
    each = [measure(labels, [p], 2) for p in predicted]
    together, over = measure(labels, predicted, 2), seed_intervals(each)
    assert over is not None
    for name in together:
        values = [metrics[name].value for metrics in each]
        assert together[name].value == pytest.approx(np.mean(values)) == pytest.approx(over[name].value)
        assert over[name].high - over[name].low == pytest.approx(2 * 4.3027 * np.std(values, ddof=1) / 3**0.5, rel=1e-4)
    assert together["f1"].high - together["f1"].low < each[0]["f1"].high - each[0]["f1"].low
    assert seed_intervals(each[:1]) is None


def test_one_answer_for_all() -> None:
    labels = np.array([0, 0, 0, 1])
    found = measure(labels, [np.zeros(4, int)], 2)
    assert (found["accuracy"].value, found["f1"].value, found["mcc"].value) == (0.75, 0.0, 0.0)
    right = measure(labels, [labels], 2)["accuracy"]
    assert right.value == 1.0 and right.low < 0.6  # four right lines prove little


def report(low: float) -> FinetuneReport:
    found = {"accuracy": Figure(0.6, low, 0.65), "f1": Figure(0.5, 0.4, 0.6)}
    seeds = [SeedResult(42, 3, found, [{"accuracy": 0.6, "f1": 0.5}])]
    majority = {"accuracy": 0.55, "f1": 0.0}
    numbers = {"epochs": 3, "learning_rate": 3e-4, "frozen": False}
    return FinetuneReport(
        "rte", "m", "valid", 139, 2490, [0, 1], "accuracy", found, None, 0, majority, 54.0, seeds, protocol=numbers
    )


def test_what_was_trained_is_said() -> None:
    assert report(0.5).training == "all weights, 3 epochs of 2,490 lines at 0.0003"
    head = replace(report(0.5), protocol={"epochs": 1, "learning_rate": 1e-3, "frozen": True}, trained=9)
    assert head.training == "head alone, 1 epoch of 9 lines at 0.001"


def test_a_report_is_read_back(tmp_path: Path) -> None:
    (tmp_path / REPORT).write_text(json.dumps(report(0.56).to_dict()))
    assert read_report(tmp_path) == report(0.56)
    assert report(0.56).above_majority and not report(0.54).above_majority


def test_a_report_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not finished, run its command again"):
        read_report(tmp_path)
    for text in ("{", "[]", "{}", json.dumps({**report(0.5).to_dict(), "mean": 3})):
        (tmp_path / REPORT).write_text(text)
        with pytest.raises(DataError, match=r"report\.json cannot be read"):
            read_report(tmp_path)
