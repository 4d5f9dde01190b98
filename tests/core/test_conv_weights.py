from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.conv_config import WEIGHTS
from bitmar.core.conv_weights import MOST, check_weights, kernel_shapes, layer_name, pack, tensor_shapes, unpack
from bitmar.core.errors import FormatError

from ..towers import random_tower


@given(st.sampled_from(WEIGHTS), st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_packing_loses_nothing(weights: str, rows: int, columns: int, seed: int) -> None:
    most = MOST[weights]
    codes = np.random.default_rng(seed).integers(-most, most + 1, (rows, columns), dtype=np.int8)
    np.testing.assert_array_equal(unpack(pack(codes, weights), weights, columns), codes)


def test_exact_bytes() -> None:
    codes = np.array([[-7, 0, 7]], np.int8)
    assert pack(codes, "int4").tolist() == [[0x81, 0x0F]]
    assert pack(codes, "int6").tolist() == [[0x19, 0x78, 0x02]]
    # 13 = 1 + 3 + 9, 5 = -1 - 3 + 9
    assert pack(np.array([[13, -13, 5, 0]], np.int8), "digits").tolist() == [[0b01000010], [0b01000010], [0b01100010]]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_random_tower_is_sound(weights: str) -> None:
    config, tensors = random_tower(np.random.default_rng(1), weights=weights)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {n: s for n, _, s in tensor_shapes(config)}
    check_weights(config, tensors)


def test_values_no_kernel_can_take_are_named() -> None:
    config, tensors = random_tower(np.random.default_rng(1))
    config = replace(config, scale=1e6)  # of the photo, so that a scale within a float's range leads out of it
    i, rows, _ = next(kernel for kernel in kernel_shapes(config) if config.layers[kernel[0] - 1].inputs == (0,))
    for key, value, message in (("bias", 1e30, "bias"), ("scale", 3e38, "scale")):
        with pytest.raises(FormatError, match=f"layer {i}.*{message}"):
            check_weights(config, {**tensors, f"{layer_name(i)}.{key}": np.full(rows, value, np.float32)})


@pytest.mark.parametrize("weights, byte", [("int4", 0x00), ("int6", 0x00), ("digits", 0xFF)])
def test_codes_that_no_writer_writes_are_refused(weights: str, byte: int) -> None:
    columns = 8
    packed = pack(np.zeros((3, columns), np.int8), weights)
    packed[0, 0] = byte
    with pytest.raises(FormatError, match=r"symmetric range|code 3"):
        unpack(packed, weights, columns)


def test_bits_after_the_last_weight_are_refused() -> None:
    packed = pack(np.zeros((1, 3), np.int8), "int4")
    packed[0, -1] |= 0x80
    with pytest.raises(FormatError, match="not filled"):
        unpack(packed, "int4", 3)
