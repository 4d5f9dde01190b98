from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.data.augment import ViewRange, random_view, view_rng

IDENTITY = ViewRange(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, colour=0.0)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(0, 2**32 - 1))
def test_any_photo_gives_a_whole_view(height: int, width: int, size: int, seed: int) -> None:
    view = random_view(photo(height, width), np.random.default_rng(seed), size)
    assert view.shape == (size, size, 3) and view.dtype == np.uint8 and view.flags["C_CONTIGUOUS"]


def test_a_view_is_a_function_of_seed_key_and_number() -> None:
    pixels = photo(64, 48)
    first = random_view(pixels, view_rng(7, "a", 1), 32)
    random_view(pixels, view_rng(7, "b", 1), 32)  # another photo in between changes nothing
    assert np.array_equal(first, random_view(pixels, view_rng(7, "a", 1), 32))
    for seed, key, view in ((8, "a", 1), (7, "b", 1), (7, "a", 2)):
        assert not np.array_equal(first, random_view(pixels, view_rng(seed, key, view), 32))


def test_nothing_allowed_changes_nothing() -> None:
    pixels = photo(32, 32)
    assert np.array_equal(random_view(pixels, np.random.default_rng(0), 32, IDENTITY), pixels)


def test_flip_mirrors_left_and_right() -> None:
    pixels = photo(32, 32)
    ranges = ViewRange(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0, colour=0.0)
    assert np.array_equal(random_view(pixels, np.random.default_rng(0), 32, ranges), pixels[:, ::-1])


def test_a_crop_is_part_of_the_photo() -> None:
    """On a ramp from left to right, a quarter-area crop spans about half of the grey levels."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    ranges = ViewRange(area=(0.25, 0.25), ratio=(1.0, 1.0), flip=0.0, colour=0.0)
    view = random_view(np.ascontiguousarray(ramp), np.random.default_rng(3), 64, ranges).astype(int)
    assert abs((view[:, -1].mean() - view[:, 0].mean()) - 126) < 4


def test_colour_keeps_grey_grey_and_does_change_it() -> None:
    grey = np.full((16, 16, 3), 120, np.uint8)
    ranges = ViewRange(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, colour=0.4)
    values = [random_view(grey, np.random.default_rng(seed), 16, ranges) for seed in range(8)]
    assert all(np.ptp(value) <= 1 for value in values)
    assert len({int(value[0, 0, 0]) for value in values}) > 3


@pytest.mark.parametrize("level", [0, 255])
def test_colour_does_not_wrap_around(level: int) -> None:
    ranges = ViewRange(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, colour=0.5)
    for seed in range(8):
        view = random_view(np.full((8, 8, 3), level, np.uint8), np.random.default_rng(seed), 8, ranges)
        assert view.max() == 0 if level == 0 else view.min() > 100
