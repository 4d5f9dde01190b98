"""The convolution tower in numpy: oracle of the native kernels, the same features to the bit.

Integers throughout (Jacob et al. 2018, arXiv 1712.05877), but for one float32 product per step of a map, whose order is
fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.conv_config import ConvLayer, ConvTowerConfig
from bitmar.core.conv_weights import Prepared, kernel_shapes, prepare
from bitmar.core.ternary import F32, U8


class ConvTower:
    """A tower of a file's `config` and `tensors`, which `open_container` or `open_tower` has checked."""

    def __init__(self, config: ConvTowerConfig, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self.config = config
        self._prepared = {i: prepare(config, tensors, i, columns) for i, _, columns in kernel_shapes(config)}

    def __call__(self, photo: U8) -> F32:
        """A square photo, uint8 (S, S, 3) -> patch features (grid^2, D_v)."""
        *_, last = self.maps(photo)
        scale, zero = self.config.map_scale(len(self.config.layers))
        features: F32 = (last.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
        return features.reshape(-1, last.shape[-1])

    def maps(self, photo: U8) -> Iterator[U8]:
        """Every map in turn, uint8 (side, side, channels), the photo first."""
        maps = [photo]
        yield photo
        for i, layer in enumerate(self.config.layers, 1):
            if layer.op == "concat":
                maps.append(np.concatenate([maps[k] for k in layer.inputs], axis=-1))
            elif layer.op == "add":
                maps.append(self._add(layer, maps))
            else:
                maps.append(self._convolve(layer, maps[layer.inputs[0]], self._prepared[i]))
            yield maps[-1]

    def _convolve(self, layer: ConvLayer, x: U8, prepared: Prepared) -> U8:
        _, zero = self.config.map_scale(layer.inputs[0])
        padded = np.pad(x, (layer.pad, layer.pad, (0, 0)), constant_values=zero)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(0, 1))
        windows = windows[:: layer.stride, :: layer.stride]  # (side, side, channels, row, column)
        if layer.op == "depthwise":
            kernels = prepared.codes.reshape(-1, layer.kernel, layer.kernel).astype(np.int32)
            sums = np.einsum("yxcij,cij->yxc", windows.astype(np.int32), kernels)
        else:
            rows = windows.transpose(0, 1, 3, 4, 2).reshape(windows.shape[0] ** 2, -1)
            # float64 counts these integers exactly, so the result does not depend on the order of BLAS's sum.
            product = rows.astype(np.float64) @ prepared.codes.astype(np.float64).T
            sums = product.astype(np.int32).reshape(*windows.shape[:2], -1)
        return _steps((sums + prepared.start).astype(np.float32) * prepared.factor, layer)

    def _add(self, layer: ConvLayer, maps: list[U8]) -> U8:
        parts = []
        for number in layer.inputs:
            scale, zero = self.config.map_scale(number)
            parts.append((maps[number].astype(np.int32) - zero).astype(np.float32) * np.float32(scale / layer.scale))
        return _steps(parts[0] + parts[1], layer)


def _steps(y: F32, layer: ConvLayer) -> U8:
    """Real multiples of the map's scale -> its bytes: cut to what the activation lets through, ties to even."""
    low, high = layer.limits
    cut = np.clip(y, np.float32(low - layer.zero), np.float32(high - layer.zero))
    steps: U8 = (np.rint(cut).astype(np.int32) + layer.zero).astype(np.uint8)
    return steps
