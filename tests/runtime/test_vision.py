from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar.core.image import normalize
from bitmar.runtime.vision import cut_squares, pool_patches


@pytest.mark.parametrize("changes", [{"tower": "two stages"}, {"tower": "one stage, gelu", "vision_grid": 6}], ids=str)
def test_the_tower_equals_torch(make_pair: Callable[..., Any], changes: dict[str, Any]) -> None:
    import torch

    pair = make_pair(**changes)
    photo = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    pixels = normalize(photo, mean=pair.bitmar.vision["mean"], std=pair.bitmar.vision["std"])
    with torch.no_grad():
        theirs = pair.torch_model.model.vision_tower(torch.from_numpy(pixels)[None])[0].numpy()
    ours = pair.bitmar.engine.tower(photo)
    assert ours.shape == theirs.shape == (pair.bitmar.config.vision_grid**2, 14)
    # As in test_engine: equal but for codes on a rounding edge.
    assert np.median(np.abs(ours - theirs)) < 1e-5 and np.abs(ours - theirs).max() < 0.05 * theirs.std()


@pytest.mark.parametrize("side, pool", [(4, 2), (7, 2), (7, 3), (5, 1), (3, 3)])
def test_pooling_equals_torch(side: int, pool: int) -> None:
    torch = pytest.importorskip("torch")
    from bitmar.model.vision import pool_patches as torch_pool

    features = np.random.default_rng(0).standard_normal((side**2, 5)).astype(np.float32)
    theirs = torch_pool(torch.from_numpy(features)[None], pool)[0].numpy()
    np.testing.assert_allclose(pool_patches(features, pool), theirs, atol=1e-6)


def test_squares_hold_their_pixels_row_by_row() -> None:
    squares = cut_squares(np.arange(16, dtype=np.float32)[:, None], 2)
    assert squares.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
