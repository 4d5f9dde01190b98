"""Small integer .tflite classifiers, written with the format's own schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

UINT8, INT32 = 3, 2
ADD, AVERAGE_POOL, CONV, DEPTHWISE, LOGISTIC = 0, 1, 3, 4, 14


class Builder:
    """A network of one RGB photo of 8 pixels per side; each method adds an operator and returns its output's number."""

    def __init__(self, seed: int = 0) -> None:
        self.model, self.rng = schema.ModelT(), np.random.default_rng(seed)
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.codes = [], [], list[int]()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.photo = self.tensor("photo", (1, 8, 8, 3), UINT8, (1 / 128, 128))

    def tensor(
        self, name: str, shape: tuple[int, ...], kind: int, quant: tuple[float, int], data: np.ndarray | None = None
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), kind, 0
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [quant[0]], [quant[1]]
        if data is not None:
            stored = schema.BufferT()
            stored.data = list(data.tobytes())
            self.model.buffers.append(stored)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, inputs: list[int], output: int, kind: int, options: Any) -> int:
        if code not in self.codes:
            self.codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.codes.index(code), inputs, [output]
        made.builtinOptionsType, made.builtinOptions = kind, options
        self.graph.operators.append(made)
        return output

    def conv(self, name: str, source: int, channels: int, *, depthwise: bool = False, stride: int = 1) -> int:
        _, side, _, wide = self.graph.tensors[source].shape
        shape = (1, 3, 3, wide) if depthwise else (channels, 3, 3, wide)
        channels = wide if depthwise else channels
        scale = 0.5 * float(self.rng.uniform(0.01, 0.02))
        weight = self.tensor(
            f"{name}/weight", shape, UINT8, (scale, 120), self.rng.integers(0, 240, shape, dtype=np.uint8)
        )
        step = scale * self.graph.tensors[source].quantization.scale[0]
        bias = self.rng.integers(-3000, 3000, channels, dtype=np.int32)
        offset = self.tensor(f"{name}/bias", (channels,), INT32, (step, 0), bias)
        out = self.tensor(name, (1, -(-side // stride), -(-side // stride), channels), UINT8, (0.05, 10))
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        if depthwise:
            options.depthMultiplier = 1
        kind = schema.BuiltinOptions.DepthwiseConv2DOptions if depthwise else schema.BuiltinOptions.Conv2DOptions
        return self.operator(DEPTHWISE if depthwise else CONV, [source, weight, offset], out, kind, options)

    def add(self, name: str, a: int, b: int) -> int:
        out = self.tensor(name, tuple(self.graph.tensors[a].shape), UINT8, (0.08, 20))
        return self.operator(ADD, [a, b], out, schema.BuiltinOptions.AddOptions, schema.AddOptionsT())

    def logistic(self, name: str, source: int) -> int:
        out = self.tensor(name, tuple(self.graph.tensors[source].shape), UINT8, (1 / 256, 0))
        return self.operator(LOGISTIC, [source], out, 0, None)

    def pool(self, source: int) -> int:
        side, wide = self.graph.tensors[source].shape[2:]
        quant = self.graph.tensors[source].quantization
        out = self.tensor("pooled", (1, 1, 1, wide), UINT8, (quant.scale[0], quant.zeroPoint[0]))
        options = schema.Pool2DOptionsT()
        options.strideH = options.strideW = options.filterHeight = options.filterWidth = side
        options.padding = 1
        return self.operator(AVERAGE_POOL, [source], out, schema.BuiltinOptions.Pool2DOptions, options)

    def write(self, path: Path, output: int, change: Callable[[Any], None] | None = None) -> Path:
        self.graph.inputs, self.graph.outputs = [self.photo], [output]
        self.model.subgraphs, self.model.operatorCodes = [self.graph], []
        for code in self.codes:
            made = schema.OperatorCodeT()
            made.builtinCode = made.deprecatedBuiltinCode = code
            made.version = 1
            self.model.operatorCodes.append(made)
        if change is not None:
            change(self)
        packed = flatbuffers.Builder(1024)
        packed.Finish(self.model.Pack(packed), b"TFL3")
        path.write_bytes(bytes(packed.Output()))
        return path


def classifier() -> tuple[Builder, int]:
    """A convolution, a depthwise one beside it, their sum, and one more of half the side: the builder, the last map."""
    net = Builder()
    first = net.conv("stem", net.photo, 16, stride=2)
    second = net.conv("middle", first, 0, depthwise=True)
    both = net.add("sum", first, second)
    last = net.conv("last", both, 24, stride=2)
    net.graph.tensors[last].quantization.zeroPoint = [0]
    return net, last
