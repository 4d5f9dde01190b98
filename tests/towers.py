"""Small random convolution towers, for the tests of several folders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitmar.core.conv_config import ConvLayer, ConvTowerConfig
from bitmar.core.conv_weights import MOST, kernel_shapes, layer_name, pack


def random_tower(
    rng: np.random.Generator, *, size: int = 9, depth: int = 6, weights: str = "int8"
) -> tuple[ConvTowerConfig, dict[str, np.ndarray]]:
    """A tower of random layers that fit together, and its tensors; most steps of its maps are neither 0 nor 255."""
    layers: list[ConvLayer] = []
    config = ConvTowerConfig(size, 0.01, 128, weights, (ConvLayer("conv", (0,), 0.1, 3, channels=4),))
    for _ in range(depth):
        config = ConvTowerConfig(size, 0.01, 128, weights, (*layers, _layer(rng, config, len(layers))))
        layers = list(config.layers)
    config = replace(config, int8_below=int(rng.choice([0, 100])))
    tensors: dict[str, np.ndarray] = {}
    for i, rows, columns in kernel_shapes(config):
        stored = config.stored_as(rows, columns)
        most = MOST[stored]
        codes = rng.integers(-most, most + 1, (rows, columns), dtype=np.int8)
        into = config.map_scale(config.layers[i - 1].inputs[0])[0]
        spread = 50 * config.layers[i - 1].scale / into  # of the sums, in steps of the map that is written
        scale = spread / (np.sqrt(columns) * most * 40) * rng.uniform(0.5, 2, rows)
        tensors[f"{layer_name(i)}.weight"] = pack(codes, stored)
        tensors[f"{layer_name(i)}.scale"] = scale.astype(np.float32)
        tensors[f"{layer_name(i)}.bias"] = (rng.normal(0, 30, rows) * config.layers[i - 1].scale).astype(np.float32)
    return config, tensors


def _layer(rng: np.random.Generator, config: ConvTowerConfig, written: int) -> ConvLayer:
    shapes = config.shapes()[: written + 1]
    source = int(rng.integers(max(0, written - 2), written + 1))
    side, channels = shapes[source].side, shapes[source].channels
    scale, zero = float(rng.uniform(0.05, 0.2)), int(rng.integers(0, 256))
    activation = str(rng.choice(["none", "relu", "relu6"]))
    same = [k for k, shape in enumerate(shapes) if shape == shapes[source]]
    joined = [k for k, shape in enumerate(shapes) if shape.side == side and shape.channels + channels < 200]
    op = str(rng.choice(["conv", "conv", "depthwise", "add", "concat"]))
    if op == "add":
        return ConvLayer(op, (source, int(rng.choice(same))), scale, zero, activation)
    if op == "concat":
        zero = config.map_scale(source)[1]
        alike = [k for k in joined if config.map_scale(k)[1] == zero]
        if alike:
            return ConvLayer(op, (source, int(rng.choice(alike))), scale, zero)
        op = "conv"
    kernel = int(rng.choice([k for k in (1, 3, 5) if k <= side]))
    pad = (int(rng.integers(0, kernel)), int(rng.integers(0, kernel)))
    stride = int(rng.integers(1, 3))
    made = int(rng.integers(1, 70)) if op == "conv" else 0
    return ConvLayer(op, (source,), scale, zero, activation, made, kernel, stride, pad)
