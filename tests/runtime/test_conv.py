"""The convolution tower in numpy against plain loops, and every kernel path against numpy, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.conv_config import WEIGHTS, ConvLayer, ConvTowerConfig
from bitmar.core.conv_weights import layer_name
from bitmar.core.errors import ConfigError
from bitmar.runtime.conv import ConvTower
from bitmar.runtime.tower import imported_tower, mean_features

from ..towers import random_tower


def photo(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@given(st.integers(0, 2**32 - 1), st.integers(5, 24), st.integers(1, 8), st.sampled_from(WEIGHTS))
def test_every_path_gives_numpys_bits(seed: int, size: int, depth: int, weights: str) -> None:
    native = pytest.importorskip("bitmar._native", reason="the native engine was not built")
    config, tensors = random_tower(np.random.default_rng(seed), size=size, depth=depth, weights=weights)
    expected = ConvTower(config, tensors)(photo(size, seed))
    for name in (name for name, reason in native.paths() if not reason):
        tower = native.ConvTower(config.to_dict(), tensors, name)
        for _ in range(2):  # the second time in the memory of the first
            np.testing.assert_array_equal(tower(photo(size, seed)), expected, err_msg=name)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_do_not_overflow(sign: int) -> None:
    native = pytest.importorskip("bitmar._native", reason="the native engine was not built")
    wide = ConvLayer("conv", (0,), 1.0, 255 if sign > 0 else 0, channels=1024)
    config = ConvTowerConfig(4, 1.0, 0, "int8", (wide, ConvLayer("conv", (1,), 1.0, 7, channels=3, kernel=4)))
    tensors = {
        f"{layer_name(1)}.weight": np.full((1024, 3), 127, np.int8),
        f"{layer_name(2)}.weight": np.full((3, 16 * 1024), sign * 127, np.int8),
    }
    for i, rows, scale in ((1, 1024, 1.0), (2, 3, 1e-7)):
        tensors |= {f"{layer_name(i)}.scale": np.full(rows, scale, np.float32)}
        tensors |= {f"{layer_name(i)}.bias": np.full(rows, sign * scale * 2**29, np.float32)}
    white = np.full((4, 4, 3), 255, np.uint8)
    expected = ConvTower(config, tensors)(white)
    for name in (name for name, reason in native.paths() if not reason):
        np.testing.assert_array_equal(native.ConvTower(config.to_dict(), tensors, name)(white), expected, err_msg=name)


def test_the_oracle_equals_plain_loops() -> None:
    config = ConvTowerConfig(
        5,
        0.5,
        100,
        "int8",
        (
            ConvLayer("conv", (0,), 0.25, 10, "relu", channels=2, kernel=3, stride=2, pad=(0, 1)),
            ConvLayer("depthwise", (1,), 0.5, 128, "none", kernel=3, pad=(1, 1)),
            ConvLayer("add", (1, 2), 1.0, 3, "relu6"),
        ),
    )
    rng = np.random.default_rng(5)
    tensors = {}
    for i, rows, columns in ((1, 2, 27), (2, 2, 9)):
        tensors[f"{layer_name(i)}.weight"] = rng.integers(-127, 128, (rows, columns), dtype=np.int8)
        tensors[f"{layer_name(i)}.scale"] = np.full(rows, 0.001, np.float32)
        tensors[f"{layer_name(i)}.bias"] = np.array([1.5, -2.5], np.float32)
    image = photo(5, 1)

    def value(maps: list[np.ndarray], k: int, y: int, x: int, c: int) -> float:
        scale, zero = config.map_scale(k)
        inside = 0 <= y < len(maps[k]) and 0 <= x < len(maps[k])
        return scale * (int(maps[k][y, x, c]) - zero) if inside else 0.0

    maps = [image]
    for i, layer in enumerate(config.layers, 1):
        shape = config.shapes()[i]
        out = np.zeros((shape.side, shape.side, shape.channels), np.uint8)
        for y, x, c in np.ndindex(*out.shape):
            if layer.op == "add":
                real = sum(value(maps, k, y, x, c) for k in layer.inputs)
            else:
                weight = tensors[f"{layer_name(i)}.weight"][c].astype(float) * np.float32(0.001)
                real, k = float(tensors[f"{layer_name(i)}.bias"][c]), layer.inputs[0]
                channels = range(maps[k].shape[2]) if layer.op == "conv" else [c]
                for at, (row, column, channel) in enumerate(
                    (r, s, channel) for r in range(3) for s in range(3) for channel in channels
                ):
                    where = (y * layer.stride + row - layer.pad[0], x * layer.stride + column - layer.pad[0])
                    real += weight[at] * value(maps, k, *where, channel)
            low, high = layer.limits
            out[y, x, c] = np.clip(round(real / layer.scale) + layer.zero, low, high)
        maps.append(out)
    found = list(ConvTower(config, tensors).maps(image))
    for i, (expected, result) in enumerate(zip(maps, found, strict=True)):
        # Biases are rounded to steps of the sums, which may move a step of the map.
        assert np.abs(expected.astype(int) - result.astype(int)).max() <= 1, i
        assert (expected == result).mean() > 0.9, i


def test_an_engine_that_is_not_there_is_refused() -> None:
    config, tensors = random_tower(np.random.default_rng(0))
    with pytest.raises(ConfigError, match="warp"):
        imported_tower(config, tensors, "warp")
    assert isinstance(imported_tower(config, tensors, "numpy"), ConvTower)


def test_the_mean_is_over_patches() -> None:
    np.testing.assert_array_equal(mean_features(np.array([[1, 2], [3, 6]], np.float32)), [2, 4])
