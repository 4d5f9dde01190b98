"""Means over groups, ties, correlations, and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.evaluate.babylm.scores import accuracy, grouped, mean_accuracy, spearman

POINTS = st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=60)


def test_a_mean_is_over_groups_not_items() -> None:
    points, uids = [1.0] * 9 + [0.0], ["large"] * 9 + ["small"]
    found = mean_accuracy(points, 0.5, {"UID": grouped(points, uids)})
    assert found.score == 0.5 and found.n == 10 and found.chance == 0.5
    assert found.parts["UID"]["large"].accuracy == 1
    uneven = mean_accuracy(points, 0.5, {"UID": grouped(points, uids)}, {"large": 0.9, "small": 0.1})
    assert uneven.score == pytest.approx(0.9)


def test_ties_of_any_number_are_counted() -> None:
    found = accuracy([1.0, 0.2, 0.5, 0.0])
    assert found.ties == 2 and found.accuracy == pytest.approx(1.7 / 4)


@given(POINTS, st.integers(1, 5))
def test_intervals_hold_the_score_and_are_never_empty(points: list[float], groups: int) -> None:
    found = mean_accuracy(points, 0.5, {"UID": grouped(points, [str(i % groups) for i in range(len(points))])})
    assert found.score is not None and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.score + 1e-9 and found.score - 1e-9 <= found.high <= 1
    assert found.high - found.low > 0.01  # even where every item is right: they are few
    assert json.loads(json.dumps(found.to_dict()))["tie_share"] == found.ties / len(points)


def test_the_correlation_is_of_ranks() -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")
    x = np.arange(20.0)
    assert spearman(np.exp(x), x).score == pytest.approx(1)
    assert spearman(-(x**3), x).score == pytest.approx(-1)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=200)
    found = spearman(noise, noise + rng.normal(size=200))
    assert found.low is not None and found.high is not None and found.score is not None
    assert 0 < found.low < found.score < found.high < 1


def test_the_interval_of_a_correlation_covers_what_it_should() -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of a bivariate normal with Pearson's 0.6
    inside = 0
    for _ in range(300):
        x = rng.normal(size=60)
        found = spearman(x, 0.6 * x + 0.8 * rng.normal(size=60))
        assert found.low is not None and found.high is not None
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / 300 <= 0.985


def test_a_correlation_of_nothing_is_undefined_not_zero() -> None:
    assert spearman(np.zeros(9), np.arange(9.0)).score is None
    assert spearman(np.arange(3.0), np.arange(3.0)).score is None
