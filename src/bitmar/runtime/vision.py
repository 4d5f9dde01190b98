"""From pixels to vision tokens: `BitVit`, the ternary tower, and the MLP that follows any tower."""

from __future__ import annotations

import math

import numpy as np

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.ternary import F32, quantize_activations
from bitmar.runtime.attention import attend, join_heads, split_heads
from bitmar.runtime.layers import Linear, Weights, activate, relu, rms_norm


class Convolution:
    """Ternary 3x3 convolution as one product over patches (im2col), then the folded batch norm.

    The int8 pixels have one scale per image: pictures have no causal order to protect.
    """

    def __init__(self, weights: Weights, name: str, stride: int = 1) -> None:
        self.stride, self.kernel = stride, weights.linear(f"{name}.conv")
        self.factor, self.offset = (weights.array(f"{name}.norm.{part}") for part in ("weight", "bias"))

    def __call__(self, x: F32) -> F32:
        """(H, W, C) -> (H / stride, W / stride, C_out)."""
        codes, scale = quantize_activations(x.reshape(-1))
        padded = np.pad(codes.reshape(x.shape), ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))  # (H, W, C, 3, 3)
        windows = windows[:: self.stride, :: self.stride]
        patches = windows.reshape(*windows.shape[:2], -1).astype(np.float32)
        assert self.kernel.scale is not None  # a tower is always ternary
        return self.kernel.product(patches) * (scale * self.kernel.scale) * self.factor + self.offset


class StemBlock:
    """Residual pair of convolutions (arXiv 1512.03385)."""

    def __init__(self, weights: Weights, name: str) -> None:
        self.first, self.second = (
            Convolution(weights, f"{name}.first"),
            Convolution(weights, f"{name}.second"),
        )

    def __call__(self, x: F32) -> F32:
        """(H, W, C) -> (H, W, C)."""
        return relu(x + self.second(relu(self.first(x))))


class ViTBlock:
    """Pre-norm transformer block over patches; all see all."""

    def __init__(self, weights: Weights, name: str, width: int, config: VisionTowerConfig) -> None:
        self.num_heads, self.activation, self.eps = (
            width // config.head_dim,
            config.activation,
            config.norm_eps,
        )
        self.attn_norm = weights.array(f"{name}.attn_norm.weight")
        self.mlp_norm = weights.array(f"{name}.mlp_norm.weight")
        self.qkv_proj, self.o_proj = weights.linear(f"{name}.qkv_proj"), weights.linear(f"{name}.o_proj")
        self.up_proj, self.down_proj = weights.linear(f"{name}.up_proj"), weights.linear(f"{name}.down_proj")

    def __call__(self, x: F32) -> F32:
        """(N, w) -> (N, w)."""
        normed = rms_norm(x[None], self.attn_norm, self.eps)
        q, k, v = split_heads(self.qkv_proj(normed), 3, self.num_heads)
        x = x + self.o_proj(join_heads(attend(q, k, v)))[0]
        return x + self.down_proj(activate(self.activation, self.up_proj(rms_norm(x, self.mlp_norm, self.eps))))


class Bottleneck:
    """Narrows a map to the channels that the next stage, or the head, reads."""

    def __init__(self, weights: Weights, name: str, eps: float) -> None:
        self.norm, self.proj, self.eps = weights.array(f"{name}.norm.weight"), weights.linear(f"{name}.proj"), eps

    def __call__(self, x: F32) -> F32:
        """(N, w) -> (N, c)."""
        return self.proj(rms_norm(x, self.norm, self.eps))


class BitVit:
    """The built-in tower: a convolutional stem (arXiv 2106.14881), then stages of ternary ViT blocks."""

    def __init__(self, weights: Weights, config: VisionTowerConfig) -> None:
        name, eps = "model.vision_tower", config.norm_eps
        self.config = config
        self.embed = Linear(weights.array(f"{name}.embed.weight"))  # sees raw pixels, so it is not ternary
        self.embed_factor, self.embed_offset = (weights.array(f"{name}.embed_norm.{p}") for p in ("weight", "bias"))
        self.down = Convolution(weights, f"{name}.stem.0", stride=2)
        # In the checkpoint's numbering a ReLU follows the first convolution.
        self.stem_blocks = [StemBlock(weights, f"{name}.stem.{2 + i}") for i in range(config.stem_blocks)]
        self.position = weights.array(f"{name}.position")
        self.stages = [
            [ViTBlock(weights, f"{name}.stages.{stage}.{i}", width, config) for i in range(depth)]
            for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True))
        ]
        self.bottlenecks = [Bottleneck(weights, f"{name}.bottlenecks.{i}", eps) for i in range(len(config.bottlenecks))]
        self.merges = [weights.linear(f"{name}.merges.{i}.proj") for i in range(len(config.widths))]
        self.head = weights.linear(f"{name}.head")
        self.out_scale, self.out_bias = (weights.array(f"{name}.out_{part}") for part in ("scale", "bias"))

    def __call__(self, pixels: F32) -> F32:
        """Normalised pixels (3, S, S) -> patch features (grid^2, D_v)."""
        side = self.config.image_size
        patches = cut_squares(pixels.transpose(1, 2, 0).reshape(side * side, 3), 4)  # (row, column, channel) in each
        fine = relu(self.embed(patches) * self.embed_factor + self.embed_offset).reshape(side // 4, side // 4, -1)
        coarse = relu(self.down(fine))
        for block in self.stem_blocks:
            coarse = block(coarse)
        x = coarse.reshape(-1, coarse.shape[-1])  # (N, w)
        for i, stage in enumerate(self.stages):
            x = self.merges[i](cut_squares(self.bottlenecks[i](x), 2))  # 2x2 become one token (arXiv 2103.14030)
            x = x if i else x + self.position
            for vit_block in stage:
                x = vit_block(x)
        features: F32 = self.head(self.bottlenecks[-1](x)) * self.out_scale + self.out_bias
        return relu(features) if self.config.out_activation == "relu" else features


def cut_squares(x: F32, size: int) -> F32:
    """A square map (side^2, C) -> its squares of size x size, (side^2 / size^2, size * size * C)."""
    side = math.isqrt(len(x))
    grid = x.reshape(side // size, size, side // size, size, -1).swapaxes(1, 2)
    squares: F32 = grid.reshape((side // size) ** 2, -1)
    return squares


class VisionProjector:
    """Section 3.2: average pooling over the patch grid, then D_v -> hidden -> d with ReLU."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.pool, self.eps = config.vision_pool, config.norm_eps
        self.norm = weights.array("model.vision.norm.weight")
        self.fc1, self.fc2 = weights.linear("model.vision.fc1"), weights.linear("model.vision.fc2")

    def __call__(self, features: F32) -> F32:
        """Patch features (N_p, D_v) -> vision tokens (N, d)."""
        pooled = rms_norm(pool_patches(features, self.pool), self.norm, self.eps)
        return self.fc2(relu(self.fc1(pooled)))


def pool_patches(features: F32, pool: int) -> F32:
    """Average pooling over a square grid (side^2, D); at the edge a window averages what it covers."""
    if pool == 1:
        return features
    side = math.isqrt(len(features))
    edges = np.arange(0, side, pool)
    grid = features.reshape(side, side, -1)
    sums: F32 = np.add.reduceat(np.add.reduceat(grid, edges, axis=0), edges, axis=1)
    widths = (np.minimum(edges + pool, side) - edges).astype(np.float32)
    means: F32 = sums / widths[:, None, None] / widths[:, None]
    return means.reshape(len(edges) ** 2, -1)
