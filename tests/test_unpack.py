"""A packed model as a checkpoint again: packed once more it is the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar import load
from bitmar.core.ternary import absmean
from bitmar.export import export_checkpoint
from bitmar.unpack import latent, unpack

from ._pairs import make_pair, tokenizer

__all__ = ["make_pair", "tokenizer"]


@pytest.mark.parametrize("changes", [{}, {"concepts": 9, "concept_classes": 13, "concept_tokens": 4}])
def test_packed_again_it_writes_the_same(
    make_pair: Callable[..., Any], tmp_path: Path, changes: dict[str, int]
) -> None:
    packed = make_pair(**changes).bitmar
    again = load(export_checkpoint(unpack(packed.path, tmp_path / "hf"), tmp_path / "again.bitmar"), engine="numpy")
    for name, tensor in packed.container.tensors.items():
        if tensor.dtype == np.float32:
            np.testing.assert_allclose(again.container.tensors[name], tensor, rtol=1e-6)
        else:
            np.testing.assert_array_equal(again.container.tensors[name], tensor)
    assert again.complete("the", max_tokens=8) == packed.complete("the", max_tokens=8)


@given(st.integers(1, 30), st.integers(1, 30), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_latent_weights_round_to_their_codes(rows: int, columns: int, scale: float, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, 2, (rows, columns)).astype(np.int8)
    codes[0, 0] = 1
    again, gamma = absmean(latent(codes, scale))
    np.testing.assert_array_equal(again, codes)
    assert gamma == pytest.approx(scale, rel=1e-5)
