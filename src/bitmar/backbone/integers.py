"""From a backbone's layers to the integers of a tower file."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.backbone.graph import F64, Backbone, Layer, finite
from bitmar.core.conv_config import ConvLayer, ConvTowerConfig
from bitmar.core.conv_weights import MOST, kernel_shapes, layer_name, pack
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.ternary import I8

_SMALL = 20_000  # weights of a kernel; those of fewer are a twentieth of all and lose the most at fewer bits
_BIAS_STEPS = 2.0**28
_CLIPS = np.linspace(0.4, 1.0, 31)  # of a channel's largest weight, tried for the least squared error


def quantize(backbone: Backbone, weights: str = "int8") -> tuple[ConvTowerConfig, dict[str, npt.NDArray[Any]]]:
    """The tower's configuration and tensors, its weights stored as `weights` (`conv_config.WEIGHTS`) names it.

    Every map must have its scale. Raises FormatError naming the layer for what no tower can hold.
    """
    layers = []
    for layer, quant in zip(backbone.layers, backbone.quants[1:], strict=True):
        if quant is None:
            raise FormatError(f"layer {layer.name!r} has no scale of its map; calibrate it with photos (--calibrate)")
        layers.append(_config(layer, quant))
    photo = backbone.quants[0]
    assert photo is not None  # every reader states it
    try:
        config = ConvTowerConfig(
            backbone.image_size, *photo, weights, tuple(layers), 0 if weights == "int8" else _SMALL
        )
    except ConfigError as error:
        raise FormatError(f"no tower for the engine: {error}") from error
    tensors: dict[str, npt.NDArray[Any]] = {}
    for i, rows, columns in kernel_shapes(config):
        layer, name, stored = backbone.layers[i - 1], layer_name(i), config.stored_as(rows, columns)
        assert layer.weight is not None and layer.bias is not None  # of every layer that has a kernel
        weight = finite(layer.weight, layer.name).reshape(len(layer.weight), -1)
        if weight.shape != (rows, columns):
            raise FormatError(f"layer {layer.name!r} has weights {weight.shape}, its maps ask for {(rows, columns)}")
        bias = finite(layer.bias, layer.name)
        # A channel that training has all but switched off: its bias must stay countable in steps of its sums.
        least = np.abs(bias) / (config.map_scale(layer.inputs[0])[0] * _BIAS_STEPS)
        codes, scale = quantize_rows(np.ascontiguousarray(weight), MOST[stored], layer.step, least)
        tensors[f"{name}.weight"] = pack(codes, stored)
        tensors[f"{name}.scale"] = scale.astype(np.float32)
        tensors[f"{name}.bias"] = bias.astype(np.float32)
    return config, tensors


def quantize_rows(weight: F64, most: int, step: F64 | None = None, least: F64 | float = 0.0) -> tuple[I8, F64]:
    """Each row of `weight` (out, columns) as integers of at most `most`, and its scale (out,).

    A row whose weights are such integers times `step` already stays as it is. Another is scaled by its largest weight,
    or below 8 bits by a part of it, where cutting the few largest loses less than coarser steps for all.
    No scale is below `least`.
    """
    peak = np.abs(weight).max(axis=1)
    scale = np.where(peak > 0, peak, 1.0) / most
    if most < 127:
        errors = np.stack([_error(weight, scale * clip, most) for clip in _CLIPS])
        scale = scale * _CLIPS[errors.argmin(axis=0)]
    if step is not None:
        scale = np.where(peak <= (most + 0.5) * step, step, scale)
    scale = np.maximum(scale, least)
    codes = np.clip(np.rint(weight / scale[:, None]), -most, most).astype(np.int8)
    return codes, scale


def _error(weight: F64, scale: F64, most: int) -> F64:
    codes = np.clip(np.rint(weight / scale[:, None]), -most, most)
    error: F64 = np.square(codes * scale[:, None] - weight).sum(axis=1)
    return error


def _config(layer: Layer, quant: tuple[float, int]) -> ConvLayer:
    scale, zero = quant
    if layer.weight is None:
        return ConvLayer(layer.op, layer.inputs, scale, zero, layer.activation)
    out, kernel = layer.weight.shape[:2]
    return ConvLayer(
        layer.op,
        layer.inputs,
        scale,
        zero,
        layer.activation,
        channels=out if layer.op == "conv" else 0,
        kernel=kernel,
        stride=layer.stride,
        pad=layer.pad,
    )
