"""The weights of a convolution tower: their tensors in a file, their packing, and what a kernel needs of them.

The sum over a window, in integers, is sum w (q - zero) + bias; times a factor and rounded it is a step of the next map.
All of it is specified to the bit, so that every engine gives the same features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.errors import FormatError
from bitmar.core.ternary import F32, I8, U8, check_codes, pack2, unpack2

I32 = npt.NDArray[np.int32]

PREFIX = "model.vision_tower."
MOST = {"int8": 127, "int6": 31, "int4": 7, "digits": 13}  # the largest |weight|
_BITS = {"int6": 6, "int4": 4}
_MOST_BIAS = 1 << 30
_DIGITS = np.array([1, 3, 9], np.int8)


class Prepared(NamedTuple):
    """A layer ready to run: step = rint(clip((window . codes + start) * factor)) + zero, float32 and int32.

    codes (out, columns): the columns run over (row, column, channel), in a depthwise layer over (row, column).
    """

    codes: I8
    start: I32
    factor: F32


def layer_name(i: int) -> str:
    """Where the tensors of layer `i`, counted from 1, are in a file."""
    return f"{PREFIX}layers.{i}"


def kernel_shapes(config: ConvTowerConfig) -> Iterator[tuple[int, int, int]]:
    """(number of the layer, output channels, columns) of every layer that has weights."""
    shapes = config.shapes()
    for i, layer in enumerate(config.layers, 1):
        area = layer.kernel**2
        if layer.op == "conv":
            yield i, layer.channels, area * shapes[layer.inputs[0]].channels
        elif layer.op == "depthwise":
            yield i, shapes[i].channels, area


def multiplications(config: ConvTowerConfig) -> int:
    """Products of a weight and an activation that one photo costs."""
    shapes = config.shapes()
    return sum(rows * columns * shapes[i].side ** 2 for i, rows, columns in kernel_shapes(config))


def tensor_shapes(config: ConvTowerConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """(name, type, shape) of every tensor."""
    for i, rows, columns in kernel_shapes(config):
        name, weights = layer_name(i), config.stored_as(rows, columns)
        if weights == "int8":
            yield f"{name}.weight", "I8", (rows, columns)
        elif weights == "digits":
            yield f"{name}.weight", "U8", (3 * rows, -(-columns // 4))
        else:
            yield f"{name}.weight", "U8", (rows, -(-columns * _BITS[weights] // 8))
        yield f"{name}.scale", "F32", (rows,)
        yield f"{name}.bias", "F32", (rows,)


def pack(codes: I8, weights: str) -> npt.NDArray[Any]:
    """Integer weights (out, columns) as a file of that kind stores them.

    int6, int4: weight + 32 in 6 bits or + 8 in 4, the first in the lowest bits of a row's first byte, zeros after the
    last. digits: w = t0 + 3 t1 + 9 t2, each a ternary matrix as `pack2` packs it, one under the other.
    """
    if weights == "int8":
        return codes
    if weights == "digits":
        low = (codes + 1) % 3 - 1
        rest = (codes - low) // 3
        middle = (rest + 1) % 3 - 1
        high = (rest - middle) // 3
        return pack2(np.concatenate([low, middle, high]).astype(np.int8))
    width = _BITS[weights]
    shifted = (codes + (1 << (width - 1))).astype(np.uint8)
    bits = (shifted[..., None] >> np.arange(width, dtype=np.uint8)) & 1
    return np.packbits(bits.reshape(len(codes), -1), axis=1, bitorder="little")


def unpack(packed: npt.NDArray[Any], weights: str, columns: int) -> I8:
    """Undo `pack`: int8 (out, columns). Raises FormatError for codes that it does not write."""
    if weights == "int8":
        return packed
    if weights == "digits":
        check_codes(packed, columns)
        digits = unpack2(packed, columns).reshape(3, -1, columns)
        codes: I8 = np.tensordot(_DIGITS, digits, axes=1).astype(np.int8)
        return codes
    width = _BITS[weights]
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    if bits[:, columns * width :].any():
        raise FormatError("the last byte of a row is not filled with zeros")
    values: U8 = bits[:, : columns * width].reshape(len(packed), columns, width) @ (
        1 << np.arange(width, dtype=np.uint8)
    )
    codes = values.astype(np.int8) - np.int8(1 << (width - 1))
    if codes.size and codes.min() < -MOST[weights]:
        raise FormatError(f"holds {-MOST[weights] - 1}, outside the symmetric range")
    return codes


def prepare(config: ConvTowerConfig, tensors: Mapping[str, npt.NDArray[Any]], i: int, columns: int) -> Prepared:
    """Layer `i` of a tower, from its tensors. Raises FormatError for a bias or a factor out of range."""
    layer, name = config.layers[i - 1], layer_name(i)
    scale, zero = config.map_scale(layer.inputs[0])
    weights = config.stored_as(len(tensors[f"{name}.scale"]), columns)
    codes = unpack(tensors[f"{name}.weight"], weights, columns)
    step = np.float64(scale) * tensors[f"{name}.scale"].astype(np.float64)  # of the sums
    bias = np.rint(tensors[f"{name}.bias"].astype(np.float64) / step)
    if np.abs(bias).max() > _MOST_BIAS:
        raise FormatError(f"layer {i} ({layer.op}): its bias is more than {_MOST_BIAS} steps of its sums")
    with np.errstate(over="ignore"):
        factor = (step / np.float64(layer.scale)).astype(np.float32)
    if not np.isfinite(factor).all():
        raise FormatError(f"layer {i} ({layer.op}): its weights' scale is too large for the map that it writes")
    start = bias - zero * codes.sum(axis=1, dtype=np.int64)
    return Prepared(codes, start.astype(np.int32), factor)


def check_weights(config: ConvTowerConfig, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Raise FormatError for weights that a kernel could not take; their names, types and shapes are right already."""
    for i, _, columns in kernel_shapes(config):
        try:
            prepare(config, tensors, i, columns)
        except FormatError as error:
            raise FormatError(f"tensor {layer_name(i) + '.weight'!r}: {error}") from None
