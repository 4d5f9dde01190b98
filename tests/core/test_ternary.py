from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bitmar.core.errors import FormatError
from bitmar.core.ternary import absmean, pack2, quantize_activations, quantize_rows, ternary_linear, unpack2

SHAPES = npst.array_shapes(min_dims=2, max_dims=2, max_side=17)
CODES = npst.arrays(np.int8, SHAPES, elements=st.integers(-1, 1))
FLOATS = npst.arrays(np.float32, SHAPES, elements=st.floats(-1e4, 1e4, width=32))


@given(CODES)
def test_packing_is_reversible(codes: np.ndarray) -> None:
    packed = pack2(codes)
    assert packed.shape == (codes.shape[0], -(-codes.shape[1] // 4))
    np.testing.assert_array_equal(unpack2(packed, codes.shape[1]), codes)


def test_packing_is_little_end_first_and_padded_with_zero_weights() -> None:
    codes = np.array([[-1, 0, 1, 0, 1]], dtype=np.int8)
    np.testing.assert_array_equal(pack2(codes), [[0b01_10_01_00, 0b01_01_01_10]])


@given(CODES, st.data())
def test_the_unused_code_is_refused_anywhere(codes: np.ndarray, data: st.DataObject) -> None:
    packed = pack2(codes)
    row = data.draw(st.integers(0, codes.shape[0] - 1))
    column = data.draw(st.integers(0, codes.shape[1] - 1))
    packed[row, column // 4] |= 3 << (2 * (column % 4))
    with pytest.raises(FormatError, match="code 3"):
        unpack2(packed, codes.shape[1])


def test_weights_in_the_padding_are_refused() -> None:
    packed = pack2(np.ones((1, 8), dtype=np.int8))
    with pytest.raises(FormatError, match="not filled"):
        unpack2(packed, 5)


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(FormatError, match="3 bytes"):
        unpack2(np.zeros((2, 2), dtype=np.uint8), 9)


def test_only_ternary_codes_are_packed() -> None:
    with pytest.raises(ValueError, match="ternary"):
        pack2(np.array([[2]], dtype=np.int8))


@given(FLOATS)
def test_absmean(weight: np.ndarray) -> None:
    codes, scale = absmean(weight)
    assert scale == pytest.approx(max(np.abs(weight.astype(np.float64)).mean(), 1e-5), rel=1e-5)
    # Each code is the nearest of the three values, up to the rounding of the quotient.
    error = np.abs(weight[..., None] / scale - np.arange(-1, 2))
    chosen = np.take_along_axis(error, codes[..., None].astype(int) + 1, axis=-1)[..., 0]
    np.testing.assert_array_less(chosen, error.min(axis=-1) + 1e-4 * (1 + np.abs(weight / scale)))


def test_absmean_rounds_halves_to_even() -> None:
    codes, scale = absmean(np.array([[0.5, 1.5, 1.0, 1.0]], dtype=np.float32))
    assert scale == 1.0
    np.testing.assert_array_equal(codes, [[0, 1, 1, 1]])


@given(FLOATS)
def test_activations_lose_at_most_half_a_step(x: np.ndarray) -> None:
    q, scale = quantize_activations(x)
    assert q.dtype == np.int8 and scale.shape == (x.shape[0], 1) and q.min() >= -127
    error = np.abs(q.astype(np.float64) * scale - x)
    assert np.all(error <= scale.astype(np.float64) * 0.5 * (1 + 1e-4))


@given(FLOATS)
def test_a_row_is_quantised_alone(x: np.ndarray) -> None:
    together, scales = quantize_activations(x)
    for row, q, scale in zip(x, together, scales, strict=True):
        alone, own_scale = quantize_activations(row)
        np.testing.assert_array_equal(alone, q)
        np.testing.assert_array_equal(own_scale, scale)


def test_zeros_quantise_to_zeros() -> None:
    q, scale = quantize_activations(np.zeros((2, 3), dtype=np.float32))
    assert not q.any() and np.all(scale > 0)
    codes, weight_scale = absmean(np.zeros((2, 3), dtype=np.float32))
    assert not codes.any() and weight_scale == np.float32(1e-5)


def test_embedding_rows_have_their_own_scales() -> None:
    q, scale = quantize_rows(np.array([[1.0, -2.0], [0.1, 0.0]], dtype=np.float32))
    np.testing.assert_array_equal(q, [[64, -127], [127, 0]])
    np.testing.assert_allclose(scale, [[2 / 127], [0.1 / 127]], rtol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 9))
def test_linear_is_the_product_of_the_dequantised_factors(seed: int, columns: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    xq, x_scale = quantize_activations(rng.normal(size=(2, 3, columns)).astype(np.float32))
    codes, w_scale = absmean(rng.normal(size=(rows, columns)).astype(np.float32))
    expected = (xq * x_scale.astype(np.float64)) @ (codes * np.float64(w_scale)).T
    result = ternary_linear(xq, x_scale, codes, w_scale)
    assert result.dtype == np.float32 and result.shape == (2, 3, rows)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_linear_does_not_overflow_int8_or_int16() -> None:
    xq = np.full((1, 4096), 127, dtype=np.int8)
    one = np.ones((1, 1), dtype=np.float32)
    result = ternary_linear(xq, one, np.ones((1, 4096), dtype=np.int8), 1.0)
    assert result[0, 0] == 127 * 4096
