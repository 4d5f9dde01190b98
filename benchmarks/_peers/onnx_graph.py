"""The network as an ONNX graph for ONNX Runtime: float32, or quantised by ONNX Runtime's own tools.

One graph serves prefill and decoding. It is made of the operators that ONNX Runtime's generation library uses, so
that nothing is lost to the form of the graph: GroupQueryAttention turns and appends the keys in place (past and present
are one buffer), residual and norm are one node, and the argmax is part of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from _peers import Ids
from _peers.weights import layers, random_weights, rotary_tables
from bitmar.core.config import ModelConfig

MICROSOFT = "com.microsoft"
BLOCK = 32  # weights that share a scale in the 4-bit file, as in llama.cpp's Q4_0


class _Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        return self.nodes_of(kind, inputs, [output], domain, **attributes)[0]

    def nodes_of(self, kind: str, inputs: list[str], outputs: list[str], domain: str, **attributes: Any) -> list[str]:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, f"{outputs[0]}:{kind}", domain=domain, **attributes))
        return outputs

    def linear(self, name: str, weight: npt.NDArray[np.float32], x: str) -> str:
        """x W^T for a weight (out, in)."""
        return self.node("MatMul", [x, self.constant(f"{name}.weight", weight.T)], name)


def _make_graph(config: ModelConfig, capacity: int) -> Any:
    """The model. Inputs: ids (1, T), past keys and values (1, h, capacity, d_h), the last position, the length."""
    from onnx import TensorProto, helper

    graph, weights = _Graph(), dict(random_weights(config))
    cos, sin = rotary_tables(config, capacity)
    tables = [graph.constant("cos", cos), graph.constant("sin", sin)]
    eps, heads = {"epsilon": config.norm_eps}, {"num_heads": config.num_heads, "kv_num_heads": config.num_heads}
    x = graph.node("Gather", [graph.constant("embed", weights["embed"]), "ids"], "x")
    first = graph.constant("0.attn_norm", weights["0.attn_norm"])
    normed = graph.node("SimplifiedLayerNormalization", [x, first], "normed", axis=-1, stash_type=1, **eps)

    def add_and_norm(x: str, change: str, norm: str) -> tuple[str, str]:
        """x + change, and its norm."""
        inputs = [x, change, graph.constant(norm, weights[norm])]
        outputs = [f"{norm}.out", "", "", f"{norm}.sum"]
        graph.nodes_of("SkipSimplifiedLayerNormalization", inputs, outputs, MICROSOFT, **eps)
        return outputs[3], outputs[0]

    for i in range(layers(config)):
        qkv = graph.linear(f"{i}.qkv", weights[f"{i}.qkv"], normed)
        inputs = [qkv, "", "", f"past_key.{i}", f"past_value.{i}", "last", "total", *tables]
        outputs = [f"{i}.attended", f"present_key.{i}", f"present_value.{i}"]
        graph.nodes_of("GroupQueryAttention", inputs, outputs, MICROSOFT, do_rotary=1, **heads)
        x, normed = add_and_norm(x, graph.linear(f"{i}.o", weights[f"{i}.o"], outputs[0]), f"{i}.mlp_norm")
        wide = graph.linear(f"{i}.up", weights[f"{i}.up"], normed)
        if config.activation == "gelu":
            active = graph.node("Gelu", [wide], f"{i}.active", MICROSOFT)
        else:
            positive = graph.node("Relu", [wide], f"{i}.positive")
            active = graph.node("Mul", [positive, positive], f"{i}.active")
        following = "norm" if i + 1 == layers(config) else f"{i + 1}.attn_norm"
        x, normed = add_and_norm(x, graph.linear(f"{i}.down", weights[f"{i}.down"], active), following)

    newest = graph.node("Gather", [normed, graph.constant("newest", np.array([-1]))], "hidden", axis=1)
    graph.node("ArgMax", [graph.linear("head", weights["head"], newest)], "next", axis=-1, keepdims=0)

    shape = [1, config.num_heads, capacity, config.head_dim]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "T"])]
    inputs += [helper.make_tensor_value_info(f"past_{name}", TensorProto.FLOAT, shape) for name in _caches(config)]
    inputs.append(helper.make_tensor_value_info("last", TensorProto.INT32, [1]))
    inputs.append(helper.make_tensor_value_info("total", TensorProto.INT32, []))
    outputs = [helper.make_tensor_value_info("next", TensorProto.INT64, [1, 1])]
    outputs += [helper.make_tensor_value_info(f"present_{name}", TensorProto.FLOAT, shape) for name in _caches(config)]
    made = helper.make_graph(graph.nodes, "peer", inputs, outputs, graph.constants)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=versions, ir_version=10)


def _caches(config: ModelConfig) -> Iterator[str]:
    for i in range(layers(config)):
        yield f"key.{i}"
        yield f"value.{i}"


def build(config: ModelConfig, kind: str, folder: Path, capacity: int) -> Path:
    import onnx

    path = folder / f"onnx-{kind}.onnx"
    model = _make_graph(config, capacity)
    if kind == "fp32":
        onnx.save(model, path)
    elif kind == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # Its shape inference stops at the first operator of ONNX Runtime's own; all that it cannot type is float32.
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(model, path, per_channel=True, weight_type=QuantType.QInt8, extra_options=types)
    else:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            model,
            bits=4,
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=4,  # activations in int8, the fastest way and the one that the other contenders go
            op_types_to_quantize=("MatMul", "Gather"),
            quant_axes=(("MatMul", 0), ("Gather", 1)),
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))
    return path


class Onnx:
    detail = ""

    def __init__(self, path: Path, config: ModelConfig, capacity: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.length = 0
        shape = (1, config.num_heads, capacity, config.head_dim)
        # An array for each: an OrtValue is a view of the array that it is made from.
        self.cache = {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for name in _caches(config)}
        # Binding is paid once: a step changes the values behind these three, never their addresses.
        self.id = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, 1), np.int64))
        self.next = ort.OrtValue.ortvalue_from_numpy(np.zeros((1, 1), np.int64))
        self.last = ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.int32))
        self.total = ort.OrtValue.ortvalue_from_numpy(np.zeros((), np.int32))
        self.step = self._bind(self.id)

    def prefill(self, ids: Ids) -> int:
        self.length = 0
        return self._run(self._bind(ort.OrtValue.ortvalue_from_numpy(ids[None])), len(ids))

    def decode(self, token: int, count: int) -> list[int]:
        tokens = []
        for _ in range(count):
            self.id.update_inplace(np.array([[token]]))
            token = self._run(self.step, 1)
            tokens.append(token)
        return tokens

    def _bind(self, ids: ort.OrtValue) -> Any:
        binding = self.session.io_binding()
        inputs = {"ids": ids, "last": self.last, "total": self.total}
        inputs |= {f"past_{name}": value for name, value in self.cache.items()}
        outputs = {"next": self.next} | {f"present_{name}": value for name, value in self.cache.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def _run(self, binding: Any, new: int) -> int:
        self.length += new
        self.last.update_inplace(np.array([self.length - 1], np.int32))
        self.total.update_inplace(np.array(self.length, np.int32))
        self.session.run_with_iobinding(binding)
        return int(self.next.numpy()[0, 0])


def load(path: Path, config: ModelConfig, kind: str, capacity: int) -> Onnx:
    return Onnx(path, config, capacity)
