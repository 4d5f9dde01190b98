"""An integer .tflite image classifier (Jacob et al. 2018, arXiv 1712.05877) up to the map that its pooling reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.backbone.graph import F64, Backbone, Layer, same_padding
from bitmar.core.errors import DataError, DependencyError, FormatError

_UINT8, _INT32, _INT8 = 3, 2, 9  # TensorType of the schema
_ADD, _AVERAGE_POOL, _CONV, _DEPTHWISE, _MEAN = 0, 1, 3, 4, 40  # BuiltinOperator
_NAMES = {_ADD: "add", _CONV: "conv", _DEPTHWISE: "depthwise"}
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}


def read_tflite(path: str | Path) -> Backbone:
    """Read a classifier of uint8 or int8 maps made of convolutions and additions.

    Raises DataError for a missing file, FormatError naming the layer for all that this architecture lacks, and
    DependencyError without ai-edge-litert.
    """
    path = Path(path)
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise DependencyError("a .tflite file needs ai-edge-litert: pip install 'bitmar[vision]'") from error
    if not path.is_file():
        raise DataError(f"{path}: no such .tflite file")
    content = path.read_bytes()
    try:
        if content[4:8] != b"TFL3":
            raise FormatError("not a .tflite model")
        try:
            model = schema.ModelT.InitFromPackedBuf(content, 0)
        except Exception as error:  # the generated reader checks nothing and meets a broken file with any exception
            raise FormatError(f"damaged .tflite model ({type(error).__name__})") from error
        if not model.subgraphs or not model.operatorCodes:
            raise FormatError("damaged .tflite model: it has no graph")
        backbone = _Reader(model, schema).read()
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    backbone.card = {
        "source": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "stands_for": _fingerprints(content),
    }
    return backbone


def _fingerprints(content: bytes) -> list[str]:
    """Of the towers `litert:` and `litert-torch:` over this file (`data.towers`)."""
    salts = [b"litert squash raw\0", *(b"litert-torch torch.%s squash raw\0" % t for t in (b"bfloat16", b"float32"))]
    return [hashlib.sha256(salt + content).hexdigest()[:16] for salt in salts]


class _Reader:
    def __init__(self, model: Any, schema: Any) -> None:
        self._model, self._graph = model, model.subgraphs[0]
        self._maps: list[tuple[int, int]] = []  # (side, channels); the file leaves out the shapes of inner maps
        self._names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}

    def read(self) -> Backbone:
        operators = self._needed()
        source = int(self._graph.inputs[0])
        shape = self._shape(source)
        if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3:
            raise FormatError(f"the input is {shape}, not one square RGB photo (1, size, size, 3)")
        numbers = {source: 0}
        self._maps = [(shape[1], 3)]
        layers: list[Layer] = []
        quants: list[tuple[float, int] | None] = [self._quant(source)]
        for operator in operators:
            output = int(operator.outputs[0])
            layers.append(self._layer(operator, output, numbers))
            quants.append(self._quant(output))
            numbers[output] = len(layers)
        scale, zero = self._quant(source)
        mean, std = zero / 255, 1 / (255 * scale)
        return Backbone(
            shape[1], layers, quants, {"size": shape[1], "resize": "squash", "mean": [mean] * 3, "std": [std] * 3}
        )

    def _needed(self) -> list[Any]:
        """The operators, in order, that the map before the last average pooling depends on."""
        pools = [o for o in self._graph.operators if self._code(o) in (_AVERAGE_POOL, _MEAN)]
        if not pools:
            raise FormatError("no average pooling, so no map of patch features before it")
        wanted, found = {int(pools[-1].inputs[0])}, []
        for operator in reversed(self._graph.operators):
            if wanted & set(operator.outputs.tolist()):
                found.append(operator)
                code = self._code(operator)
                wanted.update(int(i) for i in operator.inputs[: 2 if code == _ADD else 1])
        if not found:
            raise FormatError("no layer before the average pooling")
        return found[::-1]

    def _code(self, operator: Any) -> int:
        code = self._model.operatorCodes[operator.opcodeIndex]
        return int(max(code.builtinCode, code.deprecatedBuiltinCode))

    def _layer(self, operator: Any, output: int, numbers: dict[int, int]) -> Layer:
        code = self._code(operator)
        name = self._name(int(operator.inputs[1]) if code in (_CONV, _DEPTHWISE) else output)
        if code not in _NAMES:
            known = ", ".join(self._names[c] for c in _NAMES)
            raise FormatError(
                f"layer {name!r} is a {self._names.get(code, code)}; the engine has {known} before the pooling"
            )
        options, op = operator.builtinOptions, _NAMES[code]
        activation = 0 if options is None else int(options.fusedActivationFunction)
        if activation not in _ACTIVATIONS:
            raise FormatError(f"layer {name!r} has an activation (number {activation}) that the kernels lack")
        inputs = [int(i) for i in operator.inputs]
        missing = [i for i in inputs[: 2 if op == "add" else 1] if i not in numbers]
        if missing:
            raise FormatError(f"layer {name!r} reads {self._name(missing[0])!r}, which is no map before it")
        side, channels = self._maps[numbers[inputs[0]]]
        if op == "add":
            self._maps.append((side, channels))
            return Layer(name, op, (numbers[inputs[0]], numbers[inputs[1]]), _ACTIVATIONS[activation])
        if len(inputs) < 3 or inputs[2] < 0:
            raise FormatError(f"layer {name!r} has no bias")
        stride = int(options.strideH)
        if stride < 1 or stride != options.strideW or (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            raise FormatError(f"layer {name!r} has uneven strides or a dilation, which the kernels lack")
        weight, step = self._weight(inputs[1], name, depthwise=op == "depthwise")
        if (weight.shape[0] if op == "depthwise" else weight.shape[3]) != channels:
            raise FormatError(f"layer {name!r} has weights {weight.shape} for a map of {channels} channels")
        kernel = weight.shape[1]
        bias = self._data(inputs[2], name, (_INT32,)).astype(np.float64) * (self._quant(inputs[0])[0] * step)
        pad = same_padding(side, kernel, stride) if options.padding == 0 else (0, 0)
        self._maps.append(((side + sum(pad) - kernel) // stride + 1, weight.shape[0]))
        return Layer(name, op, (numbers[inputs[0]],), _ACTIVATIONS[activation], weight, bias, step, stride, pad)

    def _weight(self, index: int, name: str, *, depthwise: bool) -> tuple[F64, F64]:
        """Real weights, output channels first, and the step of each output channel."""
        raw = self._data(index, name, (_UINT8, _INT8)).astype(np.float64)
        quant = self._graph.tensors[index].quantization
        axis = 3 if depthwise else 0
        if raw.ndim != 4 or raw.shape[1] != raw.shape[2] or (depthwise and raw.shape[0] != 1):
            raise FormatError(f"layer {name!r} has weights of the shape {raw.shape}, no square kernels")
        scale, zero = (np.asarray(v, np.float64).reshape(-1) for v in (quant.scale, quant.zeroPoint))
        if len(scale) not in (1, raw.shape[axis]) or len(zero) not in (1, len(scale)):
            raise FormatError(f"layer {name!r} has {len(scale)} scales for {raw.shape[axis]} output channels")
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        centred = raw - zero.reshape(shape)
        weight = centred * scale.reshape(shape)
        step = np.broadcast_to(scale, raw.shape[axis]).copy()
        return (weight[0].transpose(2, 0, 1) if depthwise else weight), step

    def _name(self, index: int) -> str:
        name = self._graph.tensors[index].name
        return name.decode(errors="replace").split(";")[0] if name else f"tensor {index}"

    def _shape(self, index: int) -> tuple[int, ...]:
        shape = self._graph.tensors[index].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def _data(self, index: int, name: str, types: tuple[int, ...]) -> np.ndarray:
        tensor = self._graph.tensors[index]
        data = self._model.buffers[tensor.buffer].data
        if tensor.type not in types or data is None:
            raise FormatError(f"layer {name!r}: its weights or bias are not integers stored in the file")
        dtype = np.dtype({_UINT8: "u1", _INT8: "i1", _INT32: "<i4"}[tensor.type])
        values: np.ndarray = np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype)
        if values.size != int(np.prod(self._shape(index))):
            raise FormatError(f"layer {name!r}: its weights or bias are cut off")
        return values.reshape(self._shape(index))

    def _quant(self, index: int) -> tuple[float, int]:
        """(scale, zero) of a map as bytes from 0 to 255; int8 maps are moved by 128."""
        tensor = self._graph.tensors[index]
        quant = tensor.quantization
        if tensor.type not in (_UINT8, _INT8) or quant is None or quant.scale is None or len(quant.scale) != 1:
            raise FormatError(f"the map {self._name(index)!r} is not quantised to 8 bits with one scale")
        return float(quant.scale[0]), int(quant.zeroPoint[0]) + (128 if tensor.type == _INT8 else 0)
