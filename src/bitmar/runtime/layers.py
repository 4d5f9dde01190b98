"""The layers every part of the network is made of, over arrays whose last axis is the features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bitmar.core.container import Container
from bitmar.core.tensors import linear_shapes, scale_name
from bitmar.core.ternary import F32, quantize_activations, unpack2

_erf = np.frompyfunc(math.erf, 1, 1)  # numpy has no erf; slow, but exact


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x. With a scale, W is ternary and x is quantised to int8 per token (arXiv 2402.17764).

    `weight` (out, in) holds the codes as float32: sums of int8 times {-1, 0, 1} stay below 2^24 for up to
    132,000 inputs, where float32 counts exactly, so BLAS gives the integer result whatever the order of its
    sum.
    """

    weight: F32
    scale: np.float32 | None = None

    def __call__(self, x: F32) -> F32:
        """(..., in) -> (..., out)."""
        if self.scale is None:
            return self.product(x)
        codes, scale = quantize_activations(x)
        y = self.product(codes.astype(np.float32))
        y *= scale * self.scale
        return y

    def product(self, x: F32) -> F32:
        """The bare matrix product, as one call for all leading axes."""
        y: F32 = x.reshape(-1, x.shape[-1]) @ self.weight.T
        return y.reshape(*x.shape[:-1], len(self.weight))


class Weights:
    """A container's tensors, unpacked for numpy as the parts of the network ask for them."""

    def __init__(self, container: Container) -> None:
        self._tensors = container.tensors
        self._shapes = linear_shapes(container.config)

    def array(self, name: str) -> F32:
        """A float32 tensor as it is stored."""
        array: F32 = self._tensors[name]
        return array

    def scalar(self, name: str) -> np.float32:
        """A tensor of no dimensions, as a number."""
        number: np.float32 = np.float32(self._tensors[name].item())
        return number

    def linear(self, name: str) -> Linear:
        """The layer whose matrix is NAME.weight: unpacked if the file holds it packed."""
        weight = self._tensors[f"{name}.weight"]
        if weight.dtype != np.uint8:
            return Linear(weight)
        codes = unpack2(weight, self._shapes[f"{name}.weight"][1]).astype(np.float32)
        return Linear(codes, np.float32(self._tensors[scale_name(f"{name}.weight")][0]))


def rms_norm(x: F32, gain: F32, eps: float) -> F32:
    """Root-mean-square norm (arXiv 1910.07467) over the last axis."""
    mean_square = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    normed: F32 = x / np.sqrt(mean_square + np.float32(eps)) * gain
    return normed


def softmax(x: F32) -> F32:
    """Over the last axis."""
    exponentials: F32 = np.exp(x - x.max(axis=-1, keepdims=True))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials


def log_softmax(x: F32) -> F32:
    """Over the last axis."""
    shifted: F32 = x - x.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def softplus(x: np.float32) -> np.float32:
    """log(1 + e^x) without overflow."""
    y: np.float32 = np.logaddexp(np.float32(0), x, dtype=np.float32)
    return y


def relu(x: F32) -> F32:
    """max(x, 0)."""
    positive: F32 = np.maximum(x, np.float32(0))
    return positive


def activate(name: str, x: F32) -> F32:
    """ReLU^2 (arXiv 2109.08668), or the exact GELU."""
    if name == "relu2":
        y: F32 = np.square(relu(x))
        return y
    erf: F32 = _erf(x * np.float32(math.sqrt(0.5))).astype(np.float32)
    gelu: F32 = x * np.float32(0.5) * (np.float32(1) + erf)
    return gelu
