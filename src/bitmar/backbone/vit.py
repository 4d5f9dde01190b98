"""A vision transformer such as DINOv2 (arXiv 2304.07193) from its state dict, by the names of Hugging Face or Meta."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.backbone.graph import F64
from bitmar.backbone.integers import quantize_rows
from bitmar.backbone.state_dict import StateDict
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.vit_config import VitTowerConfig

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 uses
_EPS = 1e-6
_HEAD = 64  # features of an attention head in every DINOv2
_SIDE = 224
_CUBIC = -0.75  # the kernel's parameter in PyTorch's bicubic interpolation

_FACE: dict[str, Any] = {  # Hugging Face's names
    "patch": "embeddings.patch_embeddings.projection",
    "position": "embeddings.position_embeddings",
    "cls": "embeddings.cls_token",
    "registers": "embeddings.register_tokens",
    "block": "encoder.layer.{}",
    "qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "out": "attention.output.dense",
    "scale1": "layer_scale1.lambda1",
    "scale2": "layer_scale2.lambda1",
    "norm": "layernorm",
}
_META: dict[str, Any] = {
    "patch": "patch_embed.proj",
    "position": "pos_embed",
    "cls": "cls_token",
    "registers": "register_tokens",
    "block": "blocks.{}",
    "qkv": ("attn.qkv",),
    "out": "attn.proj",
    "scale1": "ls1.gamma",
    "scale2": "ls2.gamma",
    "norm": "norm",
}


def is_vit(weights: StateDict) -> bool:
    """Whether the names are those of this architecture."""
    return any(f"{names['patch']}.weight" in weights for names in (_FACE, _META))


def read_vit(
    path: Path, weights: StateDict, size: int | None = None
) -> tuple[VitTowerConfig, dict[str, np.ndarray], dict[str, Any]]:
    """The tower's configuration, tensors and card. size: pixels per side, by default 224.

    Raises FormatError naming the tensor that is missing, of another shape, or of another architecture, ConfigError for
    a size that the patches do not divide.
    """
    try:
        config, tensors = _Reader(weights).read(size or _SIDE)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    return config, tensors, {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


class _Reader:
    def __init__(self, weights: StateDict) -> None:
        self.weights, self.tensors = weights, dict[str, np.ndarray]()
        self.names: dict[str, Any] = _FACE if f"{_FACE['patch']}.weight" in weights else _META

    def read(self, size: int) -> tuple[VitTowerConfig, dict[str, np.ndarray]]:
        names, take = self.names, self.weights.take
        width, _, patch, _ = take(f"{names['patch']}.weight", (None, 3, None, None)).shape
        block = names["block"]
        depth = 0
        while f"{block.format(depth)}.norm1.weight" in self.weights:
            depth += 1
        gated = [n for n in self.weights.names() if ".mlp.w" in n]
        if gated:
            raise FormatError(f"{gated[0]!r} is of a gated feed-forward layer (SwiGLU), which the engine has not")
        if not depth:
            raise FormatError(f"'{block.format(0)}.norm1.weight' is missing")
        hidden = take(f"{block.format(0)}.mlp.fc1.weight", (None, width)).shape[0]
        registers = take(names["registers"], (1, None, width))[0] if names["registers"] in self.weights else None
        prefix = 1 + (0 if registers is None else len(registers))
        try:
            config = VitTowerConfig(size, patch, width, depth, max(1, width // _HEAD), hidden, prefix, _EPS)
        except ConfigError as error:
            raise ConfigError(f"no tower of {size} pixels: {error}") from None
        self._patch(names["patch"], width, patch)
        for i in range(depth):
            self._block(block.format(i), f"layers.{i}", width, hidden)
        self._norm(names["norm"], "norm", width)
        position = take(names["position"], (1, None, width))[0]
        first = take(names["cls"], (1, 1, width))[0] + position[:1]
        self._keep("prefix", first if registers is None else np.concatenate([first, registers]))
        self._keep("position", resized(position[1:], config.grid))
        return config, self.tensors

    def _patch(self, name: str, width: int, patch: int) -> None:
        """The first layer reads bytes: dividing by 255, the mean and the deviation go into its weights."""
        weight = self.weights.take(f"{name}.weight", (width, 3, patch, patch)).transpose(0, 2, 3, 1)
        bias = self.weights.take(f"{name}.bias", (width,))
        mean, std = np.array(MEAN), np.array(STD)
        offset = bias - (weight * mean / std).sum(axis=(1, 2, 3))
        self._linear("patch", (weight / (255 * std)).reshape(width, -1), offset)

    def _block(self, name: str, to: str, width: int, hidden: int) -> None:
        take, names = self.weights.take, self.names
        parts = [f"{name}.{part}" for part in names["qkv"]]
        rows = 3 * width // len(parts)
        weight = np.concatenate([take(f"{part}.weight", (rows, width)) for part in parts])
        self._linear(f"{to}.qkv", weight, np.concatenate([take(f"{part}.bias", (rows,)) for part in parts]))
        shapes = {"out": (width, width), "up": (hidden, width), "down": (width, hidden)}
        sources = {"out": (names["out"], "scale1"), "up": ("mlp.fc1", None), "down": ("mlp.fc2", "scale2")}
        for layer, (source, scale) in sources.items():
            weight = take(f"{name}.{source}.weight", shapes[layer])
            bias = take(f"{name}.{source}.bias", shapes[layer][:1])
            if scale is not None and f"{name}.{names[scale]}" in self.weights:  # LayerScale (arXiv 2103.17239)
                gain = take(f"{name}.{names[scale]}", (width,))
                weight, bias = weight * gain[:, None], bias * gain
            self._linear(f"{to}.{layer}", weight, bias)
        for norm in ("norm1", "norm2"):
            self._norm(f"{name}.{norm}", f"{to}.{norm}", width)

    def _linear(self, name: str, weight: F64, bias: F64) -> None:
        codes, scale = quantize_rows(np.ascontiguousarray(weight), 127)
        self._keep(f"{name}.weight", codes, np.int8)
        self._keep(f"{name}.scale", scale)
        self._keep(f"{name}.bias", bias)

    def _norm(self, source: str, to: str, width: int) -> None:
        for part in ("weight", "bias"):
            self._keep(f"{to}.{part}", self.weights.take(f"{source}.{part}", (width,)))

    def _keep(self, name: str, values: np.ndarray, dtype: type = np.float32) -> None:
        self.tensors[f"model.vision_tower.{name}"] = np.ascontiguousarray(values, dtype)


def resized(position: F64, grid: int) -> F64:
    """Position embeddings (side^2, d) for another grid (grid^2, d), bicubic as PyTorch interpolates."""
    side = math.isqrt(len(position))
    if side**2 != len(position):
        raise FormatError(f"{len(position)} position embeddings are no square of patches")
    if side == grid:
        return position
    weights = _cubic(side, grid)
    square = position.reshape(side, side, -1)
    result: F64 = np.einsum("yi,xj,ijd->yxd", weights, weights, square).reshape(grid**2, -1)
    return result


def _cubic(old: int, new: int) -> F64:
    """(new, old): how much of each old place a new one takes; the edge is repeated."""
    weights = np.zeros((new, old))
    for i in range(new):
        at = (i + 0.5) * old / new - 0.5
        base = math.floor(at)
        for place in range(base - 1, base + 3):
            d, a = abs(at - place), _CUBIC
            w = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[i, min(max(place, 0), old - 1)] += w
    return weights
