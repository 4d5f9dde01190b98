"""Figures and their intervals: shares, means over groups, correlations, the bootstrap."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.evaluate.figure import Figure, plain, shares

POINTS = st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=1, max_size=60)


def test_a_mean_has_the_interval_of_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    found, error = Figure.bootstrap(values), values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_ratio_weighs_by_its_denominator() -> None:
    assert Figure.bootstrap([10.0, 0.0], [10.0, 90.0]).value == pytest.approx(0.1)


def test_photos_without_weight_do_not_spoil_it() -> None:
    found = Figure.bootstrap([4.0, 0.0], [2.0, 0.0])
    assert (found.value, found.low, found.high) == (2, 2, 2)


def test_paired_differences_hold_what_two_means_hide() -> None:
    rng = np.random.default_rng(1)
    hard = 10 * rng.standard_normal(100)
    found = Figure.bootstrap((hard + 0.5 + 0.1 * rng.standard_normal(100)) - hard)
    assert 0.4 < found.low < 0.5 < found.high < 0.6
    assert Figure.bootstrap(hard + 0.5).low < 0 < Figure.bootstrap(hard + 0.5).high + 5  # unpaired it would be lost


def test_it_is_repeatable_and_a_single_value_is_certain() -> None:
    assert Figure.bootstrap([1.0, 2.0, 5.0]) == Figure.bootstrap([1.0, 2.0, 5.0])
    only = Figure.bootstrap([3.0])
    assert (only.value, only.low, only.high) == (3, 3, 3)
    grown = Figure.bootstrap([0.0, 1.0]).map(math.exp)
    assert (grown.value, grown.low, grown.high) == pytest.approx((math.exp(0.5), 1, math.e))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50))
def test_the_interval_lies_among_the_values(values: list[float]) -> None:
    found = Figure.bootstrap(values)
    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=300))
def test_a_share_lies_in_its_interval_and_more_items_narrow_it(points: list[float]) -> None:
    found = Figure.share(points)
    assert -1e-9 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1 + 1e-9
    assert Figure.share(points * 4).high - Figure.share(points * 4).low < found.high - found.low


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = Figure.share([1.0] * 8 + [0.0] * 2)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_ties_of_any_number_are_counted() -> None:
    found = Figure.share([1.0, 0.2, 0.5, 0.0])
    assert found.ties == 2 and found.n == 4 and found.value == pytest.approx(1.7 / 4)


def test_a_mean_is_over_groups_not_items() -> None:
    points, groups = [1.0] * 9 + [0.0], ["large"] * 9 + ["small"]
    found = Figure.mean_share(points, groups, chance=0.5)
    assert found.value == 0.5 and found.n == 10 and found.chance == 0.5
    assert {name: part.value for name, part in shares(points, groups).items()} == {"large": 1, "small": 0}
    assert Figure.mean_share(points, groups, {"large": 0.9, "small": 0.1}).value == pytest.approx(0.9)


@given(POINTS, st.integers(1, 5))
def test_intervals_hold_the_mean_and_are_never_empty(points: list[float], groups: int) -> None:
    found = Figure.mean_share(points, [str(i % groups) for i in range(len(points))])
    assert 0 <= found.low <= found.value + 1e-9 and found.value - 1e-9 <= found.high <= 1
    assert found.high - found.low > 0.01  # even where every item is right: they are few


def test_the_correlation_is_of_ranks() -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")
    x = np.arange(20.0)
    assert Figure.rank_correlation(np.exp(x), x).value == pytest.approx(1)
    assert Figure.rank_correlation(-(x**3), x).value == pytest.approx(-1)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=200)
    found = Figure.rank_correlation(noise, noise + rng.normal(size=200))
    assert 0 < found.low < found.value < found.high < 1


def test_the_interval_of_a_correlation_covers_what_it_should() -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's of a bivariate normal with Pearson's 0.6
    inside = 0
    for _ in range(300):
        x = rng.normal(size=60)
        found = Figure.rank_correlation(x, 0.6 * x + 0.8 * rng.normal(size=60))
        inside += found.low <= truth <= found.high
    assert 0.91 <= inside / 300 <= 0.985


def test_a_correlation_of_nothing_is_undefined_not_zero() -> None:
    for found in (
        Figure.rank_correlation(np.zeros(9), np.arange(9.0)),
        Figure.rank_correlation(np.arange(3.0), np.arange(3.0)),
    ):
        assert math.isnan(found.value) and found.to_dict()["value"] is None


@given(st.builds(Figure, *[st.floats(width=32)] * 3, st.none() | st.integers(1), st.none() | st.just(0), st.none()))
def test_json_has_every_figure_and_gives_it_back(figure: Figure) -> None:
    written = json.loads(json.dumps(plain({"a": (figure, [figure])}), allow_nan=False))["a"]
    assert written[0] == written[1][0] == figure.to_dict()
    assert Figure.read(written[0]).to_dict() == figure.to_dict()
