"""From pixels to vision tokens: `BitViT`, the ternary tower, and the MLP that the paper puts after any tower."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .attention import attend
from .bitlinear import EPS, BitLinear, RMSNorm, activation, compute_dtype, quantize_weight
from .configuration_bitmar import BitMarConfig


class VisionProjector(nn.Module):
    """Section 3.2: 2x2 average pooling over the patch grid, then D_v -> hidden -> d with ReLU and dropout."""

    def __init__(self, config: BitMarConfig) -> None:
        super().__init__()
        self.pool = config.vision_pool
        self.norm = RMSNorm(config.vision_dim, config.norm_eps)
        self.fc1 = BitLinear(config.vision_dim, config.vision_hidden, config.quantization)
        self.fc2 = BitLinear(config.vision_hidden, config.hidden_size, config.quantization)
        self.dropout = nn.Dropout(config.vision_dropout)

    def forward(self, features: Tensor) -> Tensor:  # (B, N_p, D_v) -> (B, N, d)
        return self.fc2(self.dropout(F.relu(self.fc1(self.norm(pool_patches(features, self.pool))))))


def pool_patches(features: Tensor, pool: int) -> Tensor:
    """Average pooling over a square grid (B, side^2, D); at an odd side the last window averages what it covers."""
    if pool == 1:
        return features
    side = math.isqrt(features.shape[1])
    grid = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return F.avg_pool2d(grid, pool, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class BitViTConfig:
    """Numbers of the tower: a convolutional stem, then stages of transformer blocks, each on half the side before it.

    image_size: pixels a side. stem_channels: widths of the maps at 1/4 and 1/8 of the side; stem_blocks: residual
    blocks on the second. bottlenecks: channels of the map that each stage reads, and last of the map that the head
    reads; a teacher's maps of the same shape can stand in for them while the tower is distilled. widths, depths,
    head_dim: of the transformer stages, on 1/16 of the side, 1/32, ...
    out_dim: D_v of the teacher. out_activation: "relu" for a teacher whose features are never negative, else "none".
    """

    image_size: int = 224
    stem_channels: tuple[int, int] = (48, 96)
    stem_blocks: int = 1
    bottlenecks: tuple[int, ...] = (48, 96, 192)
    widths: tuple[int, ...] = (192, 384)
    depths: tuple[int, ...] = (4, 4)
    head_dim: int = 64
    mlp_ratio: int = 4
    activation: str = "relu2"
    out_dim: int = 1280
    out_activation: str = "relu"
    norm_eps: float = 1e-6

    def to_dict(self) -> dict[str, Any]:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BitViTConfig:
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)

    @property
    def grid(self) -> int:
        """Side of the output map."""
        return self.image_size // 16 // 2 ** (len(self.widths) - 1)


class _TernaryConv(torch.autograd.Function):
    """Convolution of int8 images by ternary kernels. One activation scale per image: pictures have no causal order."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, codes: Tensor, gamma: Tensor, stride: int) -> tuple[Tensor, Tensor, Tensor]:
        scale = x.detach().float().abs().amax(dim=(1, 2, 3), keepdim=True).clamp_(min=EPS) / 127
        # float16 holds at most 65,504, which a sum of 864 products of 127 passes: as in `BitLinear`.
        shift = 1 / 128 if codes.dtype == torch.float16 else 1.0
        x_q = ((x.detach().float() / scale).round_() * shift).to(codes.dtype)
        scale = scale / shift
        y = F.conv2d(x_q, codes, stride=stride, padding=codes.shape[-1] // 2)
        return y.mul_((scale * gamma).to(y.dtype)), x_q, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, codes, gamma, stride = inputs
        _, x_q, scale = output
        ctx.mark_non_differentiable(x_q, scale)
        ctx.save_for_backward(x_q, scale, codes, gamma)
        ctx.stride, ctx.dtypes = stride, (x.dtype, weight.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_q, scale, codes, gamma = ctx.saved_tensors
        grad = grad.to(codes.dtype)
        pad = codes.shape[-1] // 2
        grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
            grad * scale.to(grad.dtype), x_q, codes, None, [ctx.stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        if grad_x is not None:  # the incoming gradient was scaled for the weight; undo it and apply gamma for the input
            grad_x = (grad_x * (gamma / scale).to(grad_x.dtype)).to(ctx.dtypes[0])
        return grad_x, None if grad_w is None else grad_w.to(ctx.dtypes[1]), None, None, None


class BitConv(nn.Conv2d):
    """Ternary convolution: BitLinear over the patch under the kernel, with one activation scale per image."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        codes, gamma = quantize_weight(self.weight)
        codes = codes.to(compute_dtype(self.weight)).contiguous(memory_format=torch.channels_last)
        return _TernaryConv.apply(x, self.weight, codes, gamma, self.stride[0])[0]

    def zero_fraction(self) -> float:
        return (quantize_weight(self.weight)[0] == 0).float().mean().item()


class ConvNorm(nn.Module):
    """Ternary convolution and batch norm; at inference the norm is one multiplication and one addition per channel."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = BitConv(in_channels, out_channels, 3, stride)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class StemBlock(nn.Module):
    """Residual pair of 3x3 convolutions (arXiv 1512.03385), ternary."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, channels)
        self.second = ConvNorm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class ViTBlock(nn.Module):
    """Pre-norm transformer block over patches, every projection ternary."""

    def __init__(self, width: int, config: BitViTConfig) -> None:
        super().__init__()
        self.num_heads, self.activation = width // config.head_dim, config.activation
        self.attn_norm, self.mlp_norm = RMSNorm(width, config.norm_eps), RMSNorm(width, config.norm_eps)
        self.qkv_proj, self.o_proj = BitLinear(width, 3 * width), BitLinear(width, width)
        self.up_proj, self.down_proj = (
            BitLinear(width, config.mlp_ratio * width),
            BitLinear(config.mlp_ratio * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, N, w) -> (B, N, w)
        q, k, v = self.qkv_proj(self.attn_norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.o_proj(attend(q, k, v, mask=None).transpose(1, 2).flatten(2))
        return x + self.down_proj(activation(self.activation, self.up_proj(self.mlp_norm(x))))


class PatchMerging(nn.Module):
    """2x2 neighbours become one token of the next stage's width (arXiv 2103.14030), ternary."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = BitLinear(4 * channels, width)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, c) -> (B, N / 4, w)
        side = math.isqrt(x.shape[1])
        quads = x.unflatten(1, (side // 2, 2, side // 2, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
        return self.proj(quads)


class Bottleneck(nn.Module):
    """Narrows a map to the channels that the next stage reads, ternary."""

    def __init__(self, width: int, channels: int, eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(width, eps)
        self.proj = BitLinear(width, channels)

    def forward(self, x: Tensor) -> Tensor:  # (B, N, w) -> (B, N, c)
        return self.proj(self.norm(x))


class BitViT(nn.Module):
    """Ternary vision tower whose output (B, grid^2, out_dim) stands where a teacher's patch features stood.

    The first layer sees raw 4x4 patches and stays unquantised (a few thousand weights); all else is ternary. Early
    convolutions let transformers learn from little data (arXiv 2106.14881).
    """

    def __init__(self, config: BitViTConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse = config.stem_channels
        self.embed = nn.Linear(3 * 4 * 4, fine, bias=False)
        self.embed_norm = nn.BatchNorm2d(fine)
        self.stem = nn.Sequential(
            ConvNorm(fine, coarse, stride=2), nn.ReLU(), *(StemBlock(coarse) for _ in range(config.stem_blocks))
        )
        before = (coarse, *config.widths)
        self.bottlenecks = nn.ModuleList(
            Bottleneck(w, c, config.norm_eps) for w, c in zip(before, config.bottlenecks, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(c, w) for c, w in zip(config.bottlenecks, config.widths, strict=False))
        self.position = nn.Parameter(torch.zeros((config.image_size // 16) ** 2, config.widths[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ViTBlock(w, config) for _ in range(n)))
            for w, n in zip(config.widths, config.depths, strict=True)
        )
        self.head = BitLinear(config.bottlenecks[-1], config.out_dim)
        # A ternary matrix has one scale; a teacher's channels have many, and means that are not 0.
        self.out_scale = nn.Parameter(torch.ones(config.out_dim))
        self.out_bias = nn.Parameter(torch.zeros(config.out_dim))

    def forward(
        self, pixels: Tensor, given: tuple[Tensor, ...] | None = None, force: Tensor | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Normalised pixels (B, 3, S, S) -> features (B, grid^2, out_dim).

        For distillation, `given` holds a teacher's maps (B, N_i, bottlenecks[i]), and where `force` (B,) is True a
        stage reads the teacher's map in place of the tower's own; returned are the features before the activation, and
        the tower's maps.
        """
        x = self.stem(self.embed_patches(pixels)).flatten(2).transpose(1, 2)
        maps = []
        for i, bottleneck in enumerate(self.bottlenecks):
            x = bottleneck(x).float()
            maps.append(x)
            if given is not None and force is not None:
                x = torch.where(force.view(-1, 1, 1), given[i], x)
            if i < len(self.stages):
                x = self.merges[i](x).float()
                x = self.stages[i](x + self.position if i == 0 else x)
        out = self.head(x).float() * self.out_scale + self.out_bias
        return self.activate(out) if given is None else (out, maps)

    def activate(self, out: Tensor) -> Tensor:
        """The last step from the head to the features."""
        return F.relu(out) if self.config.out_activation == "relu" else out

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Raw 4x4 patches (row, column, channel) -> (B, C, S/4, S/4) in channels-last memory."""
        pixels = pixels.to(self.embed.weight.dtype)
        patches = pixels.permute(0, 2, 3, 1).unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).transpose(2, 3).flatten(3)
        return F.relu(self.embed_norm(self.embed(patches).permute(0, 3, 1, 2)))


def initialise(module: nn.Module) -> None:
    """Start values of linear layers, convolutions, norms and towers; any other module is left as it is."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        module.reset_parameters()
    elif isinstance(module, RMSNorm):
        nn.init.ones_(module.weight)
    elif isinstance(module, BitViT):
        nn.init.normal_(module.position, std=0.02)
        nn.init.ones_(module.out_scale)
        nn.init.zeros_(module.out_bias)
