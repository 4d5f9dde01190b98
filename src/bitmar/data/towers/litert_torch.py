"""A uint8 convolutional .tflite rebuilt as a PyTorch module, to run it in large batches and on any device.

The LiteRT interpreter takes one photo at a time; distillation wants hundreds. Activations live here in
units of the file's own quantisation step, as integers q - zero_point: those are exact in bfloat16, and the
multiplier s_in * s_w / s_out of integer-only inference (Jacob et al. 2018, arXiv:1712.05877, section 2.2)
folds into the weights. The clamp to the representable range of each output is where the file keeps its
ReLUs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitmar.core.errors import ConfigError, FormatError
from bitmar.data.towers import CLASSES
from bitmar.data.towers.litert import open_interpreter, patch_tensor

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_FUSED = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
_CPU_CHUNK = 8  # photos at a time, so that the maps between two layers stay in the cache


@dataclass(frozen=True, slots=True)
class _Quant:
    """real = scale * (q - zero), q in 0..255."""

    scale: float
    zero: int

    @property
    def low(self) -> float:
        return float(-self.zero)

    @property
    def high(self) -> float:
        return float(255 - self.zero)


def _rounding_lift(multiplier: float) -> float:
    """The mean error of integer-only inference, in output steps, because it rounds twice.

    The multiplier is m 2^-s with m in [0.5, 1); the product with m is rounded to an integer, a step of 2^-s
    of the result, and then the shift by s rounds half up again: the threshold lies at 0.5 - 2^-(s+1), not
    at 0.5.
    """
    shift = -math.frexp(multiplier)[1]
    return 2.0 ** -(shift + 1) if shift > 0 else 0.0


class _Conv(nn.Module):
    """One convolution with TensorFlow's SAME padding; weight (out, in / groups, k, k), in output steps."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Tensor, bias: Tensor, stride: int, pad: tuple[int, int], groups: int, out: _Quant
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride, self.pad, self.groups, self.out = stride, pad, groups, out

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.pad
        if before != after:  # stride 2 on an even side pads the far edge only
            x = F.pad(x, (before, after, before, after))
            before = 0
        if x.device.type == "cpu" and _FUSED:  # a clamp on its own costs as much as the convolution
            pad, stride, limits = [before] * 2, [self.stride] * 2, [self.out.low, self.out.high]
            y: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, pad, stride, [1, 1], self.groups, "hardtanh", limits, ""
            )
            return y
        x = F.conv2d(x, self.weight, self.bias.to(x.dtype), self.stride, before, 1, self.groups)
        return x.clamp_(self.out.low, self.out.high)


class _Add(nn.Module):
    def __init__(self, left: float, right: float, out: _Quant) -> None:
        super().__init__()
        self.left, self.right, self.out = left, right, out

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.add(x * self.left, y, alpha=self.right).clamp_(self.out.low, self.out.high)


class LiteRTTorch(nn.Module):
    """The feature extractor of a uint8 .tflite classifier, up to the map that its average pooling reads.

    `rounding=True` also rounds every activation to the file's integer steps, as the interpreter does.
    """

    def __init__(self, path: str | Path, *, dtype: torch.dtype = torch.float32, rounding: bool = False) -> None:
        super().__init__()
        interpreter = open_interpreter(path)
        details = {int(d["index"]): d for d in interpreter.get_tensor_details()}
        self.path, self.dtype, self.rounding = path, dtype, rounding
        self._source = int(interpreter.get_input_details()[0]["index"])
        self._target = patch_tensor(interpreter)
        self._quants: dict[int, _Quant] = {}
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._steps: list[tuple[tuple[int, ...], int]] = []  # (maps read, map written) of each op
        self.ops = nn.ModuleList()
        self._note(details[self._source])
        for op in interpreter._get_ops_details():
            inputs = [int(i) for i in op["inputs"] if i >= 0]
            output = int(op["outputs"][0])
            self._note(details[output])
            if op["op_name"] in _CONVOLUTIONS:
                tensors = [interpreter.get_tensor(i) for i in inputs[1:3]]
                self.ops.append(self._convolution(op["op_name"], inputs, output, details, tensors, dtype))
                self._steps.append(((inputs[0],), output))
            elif op["op_name"] == "ADD":
                scale = self._quants[output].scale
                left, right = (self._quants[i].scale / scale for i in inputs)
                self.ops.append(_Add(left, right, self._quants[output]))
                self._steps.append(((inputs[0], inputs[1]), output))
            else:
                raise FormatError(
                    f"{path}: operation {op['op_name']} is not supported here; use the tower litert:{path}"
                )
            if output == self._target:
                break
        self._last_use = {i: step for step, (read, _) in enumerate(self._steps) for i in read}
        self.size = self._shapes[self._source][1]
        self.grid, _, self.dim = self._shapes[self._target][1:]
        self.scale = self._quants[self._target].scale  # of a step of the patch features
        self.eval()

    def _note(self, detail: dict[str, Any]) -> None:
        scale, zero = detail["quantization"]
        self._quants[int(detail["index"])] = _Quant(float(scale), int(zero))
        self._shapes[int(detail["index"])] = tuple(int(n) for n in detail["shape"])

    def _convolution(
        self,
        name: str,
        inputs: list[int],
        output: int,
        details: dict[int, Any],
        tensors: list[np.ndarray],
        dtype: torch.dtype,
    ) -> _Conv:
        weight, bias = tensors
        scale, zero = details[inputs[1]]["quantization"]
        depthwise = name == "DEPTHWISE_CONV_2D"
        # (out, k, k, in) for CONV_2D, (1, k, k, channels) for DEPTHWISE_CONV_2D -> PyTorch's (out, in, k, k)
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        steps = np.transpose(weight.astype(np.float64) - zero, order)
        out = self._quants[output]
        into = self._quants[inputs[0]].scale * scale / out.scale
        side_in, side_out, kernel = self._shapes[inputs[0]][1], self._shapes[output][1], steps.shape[-1]
        stride = -(-side_in // side_out)
        padding = max((side_out - 1) * stride + kernel - side_in, 0)
        return _Conv(
            torch.from_numpy((steps * into).astype(np.float32)).to(dtype),
            torch.from_numpy((bias.astype(np.float64) * into + _rounding_lift(into)).astype(np.float32)),
            stride,
            (padding // 2, padding - padding // 2),
            steps.shape[0] if depthwise else 1,
            out,
        )

    def classifier(self) -> tuple[Tensor, Tensor]:
        """The file's last layer, which reads the pooled features: weight (classes, dim) and bias (classes,),
        float32."""
        interpreter = open_interpreter(self.path)
        details = {int(d["index"]): d for d in interpreter.get_tensor_details()}
        for op in interpreter._get_ops_details():
            source = details[int(op["inputs"][0])]
            if op["op_name"] == "CONV_2D" and tuple(source["shape"]) == (1, 1, 1, self.dim):
                weight, bias = (interpreter.get_tensor(int(i)) for i in op["inputs"][1:3])
                scale, zero = details[int(op["inputs"][1])]["quantization"]
                steps = torch.from_numpy(weight.astype(np.float32) - zero).flatten(1)
                return steps * scale, torch.from_numpy(bias.astype(np.float32)) * (source["quantization"][0] * scale)
        raise FormatError(f"{self.path}: no classifier after the pooling; set the weight of the class loss to 0")

    def hint_tensor(self, grid: int) -> int:
        """The residual stream's last map at `grid` x `grid`: of the narrowest maps of that side, the last."""
        sides = [i for _, i in self._steps if self._shapes[i][1] == grid]
        if not sides:
            raise ConfigError(f"the teacher has no {grid}x{grid} map")
        width = min(self._shapes[i][3] for i in sides)
        return [i for i in sides if self._shapes[i][3] == width][-1]

    def forward(self, photos: Tensor, hints: Sequence[int] = ()) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """uint8 (B, size, size, 3) RGB -> float32 patch features (B, grid^2, dim).

        With `hints=(28, 14)` also the last narrow maps of those sides, each float32 (B, side^2, channels), and after
        them the map that the last layer reads.
        """
        wanted = [self._target, *(self.hint_tensor(grid) for grid in hints)]
        if hints:
            wanted.append(self._steps[-1][0][0])
        chunks = torch.split(photos, _CPU_CHUNK if photos.device.type == "cpu" else len(photos))
        with torch.autocast(photos.device.type, enabled=False):  # the module's own dtype decides
            maps = [self._run(chunk, wanted) for chunk in chunks]
        features, *rest = (torch.cat(parts) for parts in zip(*maps, strict=True))
        return (features, tuple(rest)) if hints else features

    def _run(self, photos: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        x = photos.permute(0, 3, 1, 2).to(self.dtype)  # channels_last in memory
        live = {self._source: x.sub_(self._quants[self._source].zero)}
        kept: dict[int, Tensor] = {}
        for step, (op, (read, written)) in enumerate(zip(self.ops, self._steps, strict=True)):
            result = op(*(live[i] for i in read))
            if self.rounding:
                result.add_(0.5).floor_()
            live[written] = result
            if written in wanted:
                kept[written] = self._tokens(result, written)
            for i in read:
                if self._last_use[i] == step:
                    live.pop(i, None)
        return [kept[i] for i in wanted]

    def _tokens(self, steps: Tensor, index: int) -> Tensor:
        return steps.permute(0, 2, 3, 1).flatten(1, 2).float() * self._quants[index].scale


class LiteRTTorchTower:
    """`LiteRTTorch` as a vision tower: several times faster than the interpreter, equal up to rounding noise.

    bfloat16 on a GPU and on CPUs that multiply it natively, else float32.
    """

    mean = (0.0, 0.0, 0.0)  # the file quantises raw pixels itself
    std = (1.0, 1.0, 1.0)

    def __init__(self, path: str | Path) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        native = self._device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        dtype = torch.bfloat16 if native else torch.float32
        self._model = LiteRTTorch(path, dtype=dtype).to(self._device)
        self.size, self.grid, self.dim, self.scale = (
            self._model.size,
            self._model.grid,
            self._model.dim,
            self._model.scale,
        )
        self.name = f"litert-torch:{Path(path).name}"
        digest = hashlib.sha256(f"litert-torch {dtype} squash raw\0".encode() + Path(path).read_bytes())
        self.fingerprint = digest.hexdigest()[:16]

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        with torch.inference_mode():
            features = self._model(torch.from_numpy(photos).to(self._device))
        return np.asarray(features.cpu())

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """The file's last layer: weight (1000, dim), bias (1000,). A background before the classes is left out."""
        weight, bias = (tensor.numpy() for tensor in self._model.classifier())
        return (weight[1:], bias[1:]) if len(weight) == CLASSES + 1 else (weight, bias)
