"""A pretrained vision transformer in numpy, its matrices in int8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.ternary import F32, U8, quantize_activations
from bitmar.core.vit_config import VitTowerConfig
from bitmar.runtime.attention import attend, join_heads, split_heads
from bitmar.runtime.layers import activate


class VitTower:
    """A tower of a file's `config` and `tensors`, which `open_container` or `open_tower` has checked."""

    def __init__(self, config: VitTowerConfig, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self.config, self._tensors = config, tensors

    def __call__(self, photo: U8) -> F32:
        """A square photo, uint8 (S, S, 3) -> patch features (grid^2, D_v)."""
        config, t = self.config, self._tensors
        cut = photo.reshape(config.grid, config.patch, config.grid, config.patch, 3).swapaxes(1, 2)
        pixels = cut.reshape(config.grid**2, -1).astype(np.float32)  # columns over (row, column, channel)
        x = self._sums("patch", pixels) * t["model.vision_tower.patch.scale"] + t["model.vision_tower.patch.bias"]
        x = x + t["model.vision_tower.position"]
        if config.prefix:
            x = np.concatenate([t["model.vision_tower.prefix"], x])
        for i in range(config.depth):
            x = self._block(f"layers.{i}", x)
        features: F32 = self._norm("norm", x)[config.prefix :]
        return features

    def _block(self, name: str, x: F32) -> F32:
        """(N, w) -> (N, w)."""
        q, k, v = split_heads(self._linear(f"{name}.qkv", self._norm(f"{name}.norm1", x))[None], 3, self.config.heads)
        x = x + self._linear(f"{name}.out", join_heads(attend(q, k, v))[0])
        wide = activate("gelu", self._linear(f"{name}.up", self._norm(f"{name}.norm2", x)))
        return x + self._linear(f"{name}.down", wide)

    def _linear(self, name: str, x: F32) -> F32:
        """Each token to int8 by its max-abs, then an integer product."""
        codes, scale = quantize_activations(x)
        full = f"model.vision_tower.{name}"
        sums = self._sums(name, codes.astype(np.float32))
        y: F32 = sums * scale * self._tensors[f"{full}.scale"] + self._tensors[f"{full}.bias"]
        return y

    def _sums(self, name: str, x: F32) -> F32:
        """Integers times integers; in float64, which counts them exactly."""
        weight = self._tensors[f"model.vision_tower.{name}.weight"]
        sums: F32 = (x.astype(np.float64) @ weight.astype(np.float64).T).astype(np.float32)
        return sums

    def _norm(self, name: str, x: F32) -> F32:
        """LayerNorm (arXiv 1607.06450)."""
        full = f"model.vision_tower.{name}"
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        normed = centred / np.sqrt(variance + np.float32(self.config.eps))
        y: F32 = normed * self._tensors[f"{full}.weight"] + self._tensors[f"{full}.bias"]
        return y
