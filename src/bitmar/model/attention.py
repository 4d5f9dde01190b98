"""Causal attention with sinks (arXiv 2309.17453; paper section 3.1) and cross-attention, written as plain products.

One rule serves training, prefill and streaming: a query at position i sees the keys j <= i with j < S (sinks) or j > i
- W (window). While a sequence fits into S + W tokens this is plain causal attention with rotary positions. Past that,
every window key keeps its distance to the query, and the sinks stand right before the window: for them the query's
position is clamped to S + W - 1, so no rotation angle ever leaves the range that training has seen.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from .bitlinear import BitLinear, RMSNorm
from .cache import BitMarCache


def rotary(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables (..., T, head_dim) of RoPE (arXiv 2104.09864), half-split convention, float32."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.float().unsqueeze(-1) * inverse
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates (B, h, T, head_dim) by tables (B or 1, T, head_dim)."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x * cos.unsqueeze(1).to(x.dtype) + turned * sin.unsqueeze(1).to(x.dtype)


class Positions:
    """Everything attention needs to know about where its tokens stand; made once per forward, shared by all layers.

    Args:
        query, key: positions (B, T) and (B, T_k), counted without padding; key_valid: (B, T_k), False on padding.
        sinks, window: S and W. longest: no sequence is longer; up to S + W the sink tables stay None.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        key_valid: Tensor | None,
        head_dim: int,
        theta: float,
        sinks: int,
        window: int,
        longest: int,
    ) -> None:
        # Rotations only see differences: measured from the oldest window key they stay bounded however long the stream.
        far = longest > sinks + window
        base = (query[:, :1] - (sinks + window - 1)).clamp(min=0) if far else torch.zeros_like(query[:, :1])
        self.query = rotary(query - base, head_dim, theta)
        self.key = rotary((key - base).clamp(min=0), head_dim, theta)  # below 0 are only sinks, which have their own
        causal = key.unsqueeze(1) <= query.unsqueeze(2)  # (B, T, T_k)
        self.is_sink: Tensor | None = None
        self.attentions: list[Tensor] | None = None  # (B, h, T, T_k) of every layer, where they are asked for
        if far:
            self.is_sink = (key < sinks).unsqueeze(1)  # (B, 1, T_k)
            causal = causal & (self.is_sink | (key.unsqueeze(1) > query.unsqueeze(2) - window))
            self.sink_query = rotary(query.clamp(max=sinks + window - 1), head_dim, theta)
            self.sink_key = rotary(key.clamp(max=sinks), head_dim, theta)
        if key_valid is not None:
            causal = causal & key_valid.unsqueeze(1)
        self.mask = torch.zeros(causal.shape, device=query.device).masked_fill_(~causal, torch.finfo(torch.float32).min)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: list[Tensor] | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d_h) + mask) v over (B, h, T, d_h), the softmax in float32; its result goes to `kept`."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores.float() if mask is None else scores.float() + mask.unsqueeze(1)
    weights = scores.softmax(dim=-1)
    if kept is not None:
        kept.append(weights)
    return weights.to(v.dtype) @ v


class SelfAttention(nn.Module):
    """Causal self-attention with ternary projections; q, k and v share one product and one quantised input."""

    def __init__(self, hidden_size: int, num_heads: int, quantization: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = BitLinear(hidden_size, 3 * hidden_size, quantization)
        self.o_proj = BitLinear(hidden_size, hidden_size, quantization)

    def forward(
        self, x: Tensor, positions: Positions, cache: BitMarCache | None = None, layer: int = 0
    ) -> Tensor:  # (B, T, d) -> (B, T, d)
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, T, d_h) each
        if cache is not None:
            k, v = cache.update(k, v, layer)  # keys are cached unrotated: a sink's place moves with the stream
        mask = positions.mask
        if positions.is_sink is None:
            out = attend(rotate(q, *positions.query), rotate(k, *positions.key), v, mask, positions.attentions)
        else:
            scale = q.shape[-1] ** -0.5
            near = rotate(q, *positions.query) @ rotate(k, *positions.key).transpose(-1, -2)
            sink = rotate(q, *positions.sink_query) @ rotate(k, *positions.sink_key).transpose(-1, -2)
            scores = torch.where(positions.is_sink.unsqueeze(1), sink, near).float() * scale + mask.unsqueeze(1)
            weights = scores.softmax(dim=-1)
            if positions.attentions is not None:
                positions.attentions.append(weights)
            out = weights.to(v.dtype) @ v
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Fusion(nn.Module):
    """Cross-modal fusion (section 3.3): text queries, vision keys and values; softmax and residual in float32."""

    def __init__(self, hidden_size: int, num_heads: int, quantization: str, eps: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = RMSNorm(hidden_size, eps)
        self.q_proj = BitLinear(hidden_size, hidden_size, quantization)
        self.kv_proj = BitLinear(hidden_size, 2 * hidden_size, quantization)
        self.o_proj = BitLinear(hidden_size, hidden_size, quantization)

    def keys_values(self, vision: Tensor) -> tuple[Tensor, Tensor]:
        """Vision tokens (B, N, d) -> keys and values (B, h, N, d_h), computed once per image."""
        k, v = self.kv_proj(vision).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(
        self, z: Tensor, keys_values: tuple[Tensor, Tensor], kept: list[Tensor] | None = None
    ) -> Tensor:  # (B, T, d) -> (B, T, d)
        q = self.q_proj(self.norm(z)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        out = attend(q, *keys_values, mask=None, kept=kept)
        return z + self.o_proj(out.transpose(1, 2).flatten(2))
