"""BitLinear: the ternary linear layer of BitNet b1.58 (arXiv 2402.17764, 2504.12285), trained through a
straight-through estimator.

The integers are exact. Activations are integers in [-127, 127] and weights are in {-1, 0, 1}; both are exact in
bfloat16, and in float32 their dot products are exact too, whatever the order of the sum. So in float32 a row's result
cannot depend on the batch that it is computed in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

HALF_MAX = torch.finfo(torch.float16).max  # 65,504
EPS = 1e-5  # the smallest scale: an all-zero row quantises to zeros, not to NaN


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Absmean quantisation: codes in {-1, 0, 1} (same shape, float32) and the scale gamma = mean|W| (scalar)."""
    gamma = weight.detach().float().abs().mean().clamp(min=EPS)
    return (weight.detach().float() / gamma).round_().clamp_(-1, 1), gamma


def quantize_activation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Per-token max-abs quantisation over the last axis: integers in [-127, 127] (float32) and scale (..., 1)."""
    x = x.detach().float()
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_(min=EPS) / 127
    return (x / scale).round_(), scale


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which matrix products run: autocast's where it is on, the weight's own otherwise."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class _TernaryLinear(torch.autograd.Function):
    """y = (x_q W_q^T) * (s_x gamma); the gradient passes both roundings unchanged (straight-through)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, codes: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_q, scale = quantize_activation(x)
        # float16 holds at most 65,504: 127 * in_features would overflow, so its integers travel as multiples of 1/128.
        shift = 1 / 128 if codes.dtype == torch.float16 else 1.0
        x_q = (x_q * shift).to(codes.dtype)
        scale = scale / shift
        y = F.linear(x_q, codes)
        y = y.mul_((scale * gamma).to(y.dtype))
        if y.dtype == torch.float16:  # the largest number in place of infinity
            y = y.clamp_(-HALF_MAX, HALF_MAX)
        return y, x_q, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, codes, gamma = inputs
        _, x_q, scale = output
        ctx.mark_non_differentiable(x_q, scale)
        ctx.save_for_backward(x_q, scale, codes, gamma)
        ctx.dtypes = x.dtype, weight.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_q, scale, codes, gamma = ctx.saved_tensors
        grad = grad.to(codes.dtype)
        grad_x = grad_w = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad @ codes).mul_(gamma.to(codes.dtype)).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            scaled = (grad * scale.to(codes.dtype)).flatten(0, -2)
            grad_w = (scaled.T @ x_q.flatten(0, -2)).to(ctx.dtypes[1])
        return grad_x, grad_w, None, None


class _StraightThrough(torch.autograd.Function):
    """The second argument forwards, its gradient to the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None


class BitLinear(nn.Linear):
    """Linear layer without bias whose weights are ternary and whose inputs are int8 per token.

    Args:
        in_features, out_features: shape of the weight is (out_features, in_features).
        quantization: "ternary", or "none" for the plain linear layer that comparisons need.
    """

    def __init__(self, in_features: int, out_features: int, quantization: str = "ternary") -> None:
        super().__init__(in_features, out_features, bias=False)
        self.quantization = quantization
        self._cached: tuple[tuple[int, int, torch.dtype], Tensor, Tensor] | None = None

    def codes(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Ternary codes (out, in) in `dtype` and gamma; without gradients they are kept from call to call.

        A call with gradients announces that the weight will change, so it drops what was kept.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._cached = None
            codes, gamma = quantize_weight(self.weight)
            return codes.to(dtype), gamma
        key = (self.weight.data_ptr(), self.weight._version, dtype)
        if self._cached is None or self._cached[0] != key:
            codes, gamma = quantize_weight(self.weight)
            self._cached = (key, codes.to(dtype), gamma)
        return self._cached[1], self._cached[2]

    def forward(self, x: Tensor) -> Tensor:  # (..., in) -> (..., out)
        dtype = compute_dtype(self.weight)
        if self.quantization == "none":
            return super().forward(within(x, dtype))
        codes, gamma = self.codes(dtype)
        return _TernaryLinear.apply(x, self.weight, codes, gamma)[0]

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight as the layer multiplies them, dequantised, with straight-through gradients.

        For a loss that has to take the product apart: `operands(x)[0] @ operands(x)[1].T` equals `self(x)` up to
        rounding.
        """
        dtype = compute_dtype(self.weight)
        if self.quantization == "none":
            return within(x, dtype), self.weight.to(dtype)
        codes, gamma = self.codes(dtype)
        x_q, scale = quantize_activation(x)
        weight = _StraightThrough.apply(self.weight, codes * gamma.to(dtype))
        return _StraightThrough.apply(x, (x_q * scale).to(dtype)), weight

    def zero_fraction(self) -> float:
        """Share of zero codes, the E_q of the paper's Figure 3."""
        return (quantize_weight(self.weight)[0] == 0).float().mean().item()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv 1910.07467) with a gain, computed in float32; shape is kept."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps)


def within(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`; what float16 cannot hold becomes its largest number, not infinity."""
    if dtype == torch.float16 and x.dtype != dtype:
        x = x.clamp(-HALF_MAX, HALF_MAX)
    return x.to(dtype)


def activation(name: str, x: Tensor) -> Tensor:
    """ReLU^2 (arXiv 2109.08668) or exact GELU. Squares of float16 are float32: they overflow it from 256 on."""
    if name != "relu2":
        return F.gelu(x)
    x = F.relu(x)
    return (x.float() if x.dtype == torch.float16 else x).square()
