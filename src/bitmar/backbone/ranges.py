"""The ranges of a float network's maps over real photos: what its bytes must reach (Jacob et al. 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from bitmar.backbone.graph import Backbone, Layer
from bitmar.core.errors import DataError, FormatError
from bitmar.core.ternary import F32, U8

PHOTOS = 64  # enough: the ranges of more differ by less than the bytes' steps
_TAIL = 1e-5  # share of a map's values, at either end, that may lie outside its range


def calibrate(backbone: Backbone, photos: Iterable[U8]) -> None:
    """Give every map without a scale one, from `photos` (size, size, 3). Raises DataError without a photo."""
    count, lows, highs = 0, [0.0] * len(backbone.quants), [0.0] * len(backbone.quants)
    for photo in photos:
        count += 1
        for i, values in enumerate(float_maps(backbone, photo)):
            if backbone.quants[i] is None:
                if not np.isfinite(values).all():
                    raise FormatError(f"layer {backbone.layers[i - 1].name!r} overflows on a photo")
                low, high = np.quantile(values, (_TAIL, 1 - _TAIL))
                lows[i], highs[i] = min(lows[i], float(low)), max(highs[i], float(high))
    if not count:
        raise DataError("no photo to calibrate with")
    for i, quant in enumerate(backbone.quants):
        if quant is None:
            scale = max(highs[i] - lows[i], 1e-6) / 255
            backbone.quants[i] = (scale, round(-lows[i] / scale))


def needs_photos(backbone: Backbone) -> bool:
    """Whether a map has no scale yet."""
    return None in backbone.quants


def float_maps(backbone: Backbone, photo: U8) -> Iterator[F32]:
    """Every map of the unquantised network, float32 (side, side, channels), the photo first."""
    photo_quant = backbone.quants[0]
    assert photo_quant is not None
    scale, zero = photo_quant
    maps: list[F32] = [(photo.astype(np.float32) - np.float32(zero)) * np.float32(scale)]
    yield maps[0]
    for layer in backbone.layers:
        maps.append(_run(layer, maps))
        yield maps[-1]


def _run(layer: Layer, maps: list[F32]) -> F32:
    x = maps[layer.inputs[0]]
    if layer.op == "add":
        y: F32 = x + maps[layer.inputs[1]]
    elif layer.op == "concat":
        y = np.concatenate([maps[k] for k in layer.inputs], axis=-1)
    else:
        y = _convolve(layer, x)
    if layer.activation != "none":
        y = np.clip(y, 0, 6 if layer.activation == "relu6" else None)
    return y


def _convolve(layer: Layer, x: F32) -> F32:
    assert layer.weight is not None and layer.bias is not None
    kernel, weight = layer.weight.shape[1], layer.weight.astype(np.float32)
    padded = np.pad(x, (layer.pad, layer.pad, (0, 0)))
    windows: npt.NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(0, 1))
    windows = windows[:: layer.stride, :: layer.stride]  # (side, side, channels, row, column)
    if layer.op == "depthwise":
        y: F32 = np.einsum("yxcij,cij->yxc", windows, weight)
    else:
        rows = windows.transpose(0, 1, 3, 4, 2).reshape(windows.shape[0] ** 2, -1)
        y = (rows @ weight.reshape(len(weight), -1).T).reshape(*windows.shape[:2], -1)
    return y + layer.bias.astype(np.float32)
