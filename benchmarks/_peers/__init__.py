"""Who takes part in `peers.py`: the names, where they live, what they need.

Each module offers `build(config, kind, folder, capacity)`, which writes the network's file and returns its path, and
`load(path, config, kind, capacity)`, which reads it into a `Network`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


class Network(Protocol):
    """A network with its KV cache, on one thread. detail: what the table should add to its name, or ""."""

    detail: str

    def prefill(self, ids: Ids) -> int:
        """Forget everything, read the tokens (T,) and return the likeliest next one."""

    def decode(self, token: int, count: int) -> list[int]:
        """Go on from `token`, `count` steps of one token each, always the likeliest: those tokens."""


@dataclass(frozen=True)
class Contender:
    """kind: what `build` and `load` of the module make of it. packages: on PyPI, those it needs."""

    name: str
    about: str
    module: str
    kind: str
    packages: tuple[str, ...]


BASELINE = "bitmar"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(BASELINE, "bitmar, ternary; with picture and memory", "ours", "", ("bitmar",)),
        Contender("torch-fp32", "PyTorch eager, float32", "pytorch", "fp32", ("torch",)),
        Contender("torch-bf16", "PyTorch eager, bfloat16", "pytorch", "bf16", ("torch",)),
        Contender("torch-int8", "PyTorch eager, dynamic int8", "pytorch", "int8", ("torch",)),
        Contender("onnx-fp32", "ONNX Runtime, float32", "onnx_graph", "fp32", ("onnxruntime", "onnx")),
        Contender("onnx-int8", "ONNX Runtime, dynamic int8", "onnx_graph", "int8", ("onnxruntime", "onnx")),
        Contender(
            "onnx-4bit", "ONNX Runtime, MatMulNBits 4-bit", "onnx_graph", "4bit", ("onnxruntime", "onnx", "onnx-ir")
        ),
        Contender("llama-q8_0", "llama.cpp, Q8_0", "llama", "Q8_0", ("llama-cpp-python", "gguf")),
        Contender("llama-q4_0", "llama.cpp, Q4_0", "llama", "Q4_0", ("llama-cpp-python", "gguf")),
    )
}
