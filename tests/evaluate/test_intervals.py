"""Bootstrap intervals of means and ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.evaluate.intervals import bootstrap, transformed


def test_a_mean_has_the_interval_of_its_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    found, error = bootstrap(values), values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_ratio_weighs_by_its_denominator() -> None:
    assert bootstrap([10.0, 0.0], [10.0, 90.0]).value == pytest.approx(0.1)


def test_photos_without_weight_do_not_spoil_it() -> None:
    found = bootstrap([4.0, 0.0], [2.0, 0.0])
    assert (found.value, found.low, found.high) == (2, 2, 2)


def test_paired_differences_hold_what_two_means_hide() -> None:
    rng = np.random.default_rng(1)
    hard = 10 * rng.standard_normal(100)
    found = bootstrap((hard + 0.5 + 0.1 * rng.standard_normal(100)) - hard)
    assert 0.4 < found.low < 0.5 < found.high < 0.6
    assert bootstrap(hard + 0.5).low < 0 < bootstrap(hard + 0.5).high + 5  # unpaired it would be lost


def test_it_is_repeatable_and_a_single_value_is_certain() -> None:
    assert bootstrap([1.0, 2.0, 5.0]) == bootstrap([1.0, 2.0, 5.0])
    only = bootstrap([3.0])
    assert (only.value, only.low, only.high) == (3, 3, 3)
    grown = transformed(bootstrap([0.0, 1.0]), math.exp)
    assert (grown.value, grown.low, grown.high) == pytest.approx((math.exp(0.5), 1, math.e))


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=50))
def test_the_interval_lies_among_the_values(values: list[float]) -> None:
    found = bootstrap(values)
    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6
