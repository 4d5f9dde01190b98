"""Causal attention with sinks (arXiv 2309.17453; paper section 3.1) and cross-attention (section 3.3).

A query at position i sees the keys j <= i with j < S (sinks) or j > i - W (window). While a sequence fits
into S + W tokens this is plain causal attention with rotary positions. Past that the sinks stand right before
the window: towards them the query's position is clamped to S + W - 1, so no rotation leaves the range that
training has seen.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from bitmar.core.config import ModelConfig
from bitmar.core.ternary import F32
from bitmar.runtime.cache import I64, DecodingState, ImageTokens
from bitmar.runtime.layers import Weights, rms_norm, softmax

_HIDDEN = np.finfo(np.float32).min


def rotary(positions: I64, head_dim: int, theta: float) -> tuple[F32, F32]:
    """Cosine and sine tables (T, head_dim) of RoPE (arXiv 2104.09864), half-split convention."""
    inverse = (theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    angles = positions.astype(np.float32)[:, None] * inverse
    angles = np.concatenate((angles, angles), axis=-1)
    return np.cos(angles), np.sin(angles)


def rotate(x: F32, table: tuple[F32, F32]) -> F32:
    """Turn (B, h, T, head_dim) by tables (T, head_dim)."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = table
    turned: F32 = x * cos + np.concatenate((-second, first), axis=-1) * sin
    return turned


class Positions:
    """Where the new tokens (T,) and the keys (n,) stand; made once a forward, shared by all layers."""

    def __init__(self, query: I64, key: I64, config: ModelConfig) -> None:
        sinks, window = config.attention_sinks, config.attention_window
        self._rope = config.head_dim, config.rope_theta
        far = query[-1] > sinks + window - 1
        # Rotations only see differences: measured from the oldest window key they stay bounded however long
        # the stream.
        base = max(int(query[0]) - (sinks + window - 1), 0) if far else 0
        self.query = rotary(query - base, *self._rope)
        self.key = rotary(np.maximum(key - base, 0), *self._rope)  # below 0 are only sinks, which have their own
        visible = key <= query[:, None]  # (T, n)
        self.is_sink: npt.NDArray[np.bool_] | None = None
        if far:
            self.is_sink = key < sinks
            visible &= self.is_sink | (key > query[:, None] - window)
            self.sink_query = rotary(np.minimum(query, sinks + window - 1), *self._rope)
            self.sink_key = rotary(np.minimum(key, sinks), *self._rope)
        self.mask = np.where(visible, np.float32(0), _HIDDEN)

    def scores(self, q: F32, k: F32) -> F32:
        """Masked scores (B, h, T, n) of queries (B, h, T, d_h) on keys (B, h, n, d_h), unrotated."""
        scores: F32 = rotate(q, self.query) @ rotate(k, self.key).swapaxes(-1, -2)
        if self.is_sink is not None:
            sink: F32 = rotate(q, self.sink_query) @ rotate(k, self.sink_key).swapaxes(-1, -2)
            scores = np.where(self.is_sink, sink, scores)
        scores = scores * np.float32(q.shape[-1] ** -0.5) + self.mask
        return scores


class SelfAttention:
    """Causal self-attention; q, k and v share one product and one quantised input."""

    def __init__(self, weights: Weights, name: str, num_heads: int) -> None:
        self.num_heads = num_heads
        self.qkv_proj = weights.linear(f"{name}.qkv_proj")
        self.o_proj = weights.linear(f"{name}.o_proj")

    def __call__(self, x: F32, positions: Positions, state: DecodingState, layer: int) -> F32:
        """(B, T, d) -> (B, T, d); adds the new keys and values to the state."""
        q, k, v = split_heads(self.qkv_proj(x), 3, self.num_heads)
        k, v = state.append(layer, k, v)
        return self.o_proj(join_heads(softmax(positions.scores(q, k)) @ v))


class Fusion:
    """Cross-modal fusion: text queries, vision keys and values, residual."""

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        self.num_heads, self.eps = config.num_heads, config.norm_eps
        self.norm = weights.array("model.fusion.norm.weight")
        self.q_proj = weights.linear("model.fusion.q_proj")
        self.kv_proj = weights.linear("model.fusion.kv_proj")
        self.o_proj = weights.linear("model.fusion.o_proj")

    def prepare(self, tokens: F32) -> ImageTokens:
        """Vision tokens (N, d) with their keys and values (1, h, N, d_h), which no longer depend on any text."""
        return ImageTokens(tokens, tuple(split_heads(self.kv_proj(tokens[None]), 2, self.num_heads)))

    def __call__(self, z: F32, image: ImageTokens) -> F32:
        """z (B, T, d) -> f (B, T, d)."""
        keys, values = cast("tuple[F32, F32]", image.prepared)
        (q,) = split_heads(self.q_proj(rms_norm(z, self.norm, self.eps)), 1, self.num_heads)
        return z + self.o_proj(join_heads(attend(q, keys, values)))


def attend(q: F32, k: F32, v: F32) -> F32:
    """softmax(q k^T / sqrt(d_h)) v over (B, h, T, d_h), every key visible."""
    mixed: F32 = softmax((q * np.float32(q.shape[-1] ** -0.5)) @ k.swapaxes(-1, -2)) @ v
    return mixed


def split_heads(x: F32, parts: int, num_heads: int) -> F32:
    """(B, T, parts * d) -> (parts, B, h, T, d_h)."""
    batch, length, _ = x.shape
    heads: F32 = x.reshape(batch, length, parts, num_heads, -1).transpose(2, 0, 3, 1, 4)
    return heads


def join_heads(x: F32) -> F32:
    """(B, h, T, d_h) -> (B, T, d)."""
    batch, _, length, _ = x.shape
    joined: F32 = x.swapaxes(1, 2).reshape(batch, length, -1)
    return joined
