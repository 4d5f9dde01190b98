"""Attention with sinks against a loop over single queries and keys."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitmar.model.attention import Fusion, Positions, SelfAttention, attend, rotary, rotate

HEAD, THETA, SINKS, WINDOW = 8, 10000.0, 2, 6


def positions(length: int, sinks: int = SINKS, window: int = WINDOW) -> Positions:
    place = torch.arange(length).unsqueeze(0)
    return Positions(place, place, None, HEAD, THETA, sinks, window, length)


def turn(x: Tensor, place: int) -> Tensor:
    """RoPE of one vector (head_dim,): pairs (i, i + head_dim / 2) as complex numbers."""
    half = len(x) // 2
    angle = place * THETA ** (-torch.arange(half, dtype=torch.float64) / half)
    z = torch.complex(x[:half].double(), x[half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((z.real, z.imag))


def by_loops(layer: SelfAttention, x: Tensor, sinks: int, window: int) -> Tensor:
    """The rule of the module's first lines, one query and one key at a time, in float64."""
    q, k, v = layer.qkv_proj(x).unflatten(-1, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4).double()
    out = torch.zeros_like(q)
    for b, h, i in ((b, h, i) for b in range(q.shape[0]) for h in range(q.shape[1]) for i in range(q.shape[2])):
        scores, values = [], []
        for j in range(i + 1):
            if j >= sinks and j <= i - window:
                continue
            at = min(i, sinks + window - 1) if j < sinks else i
            scores.append(turn(q[b, h, i], at) @ turn(k[b, h, j], j) / math.sqrt(q.shape[-1]))
            values.append(v[b, h, j])
        out[b, h, i] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return layer.o_proj(out.transpose(1, 2).flatten(2).float())


@pytest.mark.parametrize("length", [1, SINKS + WINDOW, SINKS + WINDOW + 1, 21])
def test_self_attention_is_the_written_rule(length: int) -> None:
    layer, x = SelfAttention(2 * HEAD, 2, "none"), torch.randn(2, length, 2 * HEAD)
    torch.testing.assert_close(layer(x, positions(length)), by_loops(layer, x, SINKS, WINDOW))


def test_a_short_sequence_is_plain_causal_attention() -> None:
    layer, x = SelfAttention(2 * HEAD, 2, "none"), torch.randn(2, 7, 2 * HEAD)
    q, k, v = layer.qkv_proj(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    tables = rotary(torch.arange(7).unsqueeze(0), HEAD, THETA)
    expected = F.scaled_dot_product_attention(rotate(q, *tables), rotate(k, *tables), v, is_causal=True)
    torch.testing.assert_close(layer(x, positions(7)), layer.o_proj(expected.transpose(1, 2).flatten(2)))


def test_without_sinks_only_the_window_counts() -> None:
    layer, x = SelfAttention(2 * HEAD, 2, "none"), torch.randn(1, 12, 2 * HEAD)
    with torch.no_grad():
        before = layer(x, positions(12, sinks=0, window=4))
        x[:, :8] = torch.randn(1, 8, 2 * HEAD)
        after = layer(x, positions(12, sinks=0, window=4))
    assert torch.equal(before[:, 11], after[:, 11])
    assert not torch.allclose(before[:, 10], after[:, 10])


def test_rotation_keeps_length_and_sees_only_differences() -> None:
    q, k = torch.randn(1, 1, 1, HEAD), torch.randn(1, 1, 1, HEAD)

    def score(at: int, other: int) -> Tensor:
        return rotate(q, *rotary(torch.tensor([[at]]), HEAD, THETA)) @ rotate(
            k, *rotary(torch.tensor([[other]]), HEAD, THETA)
        ).transpose(-1, -2)

    torch.testing.assert_close(score(9, 4), score(105, 100), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotate(q, *rotary(torch.tensor([[77]]), HEAD, THETA)).norm(), q.norm())


@pytest.mark.parametrize("place", [SINKS + WINDOW, 1_000, 10**9])
def test_no_angle_grows_with_the_stream(place: int) -> None:
    """Whatever the token's number, its query is turned by S + W - 1 and its keys by less."""
    keys = torch.tensor([[0, 1, *range(place - WINDOW + 1, place + 1)]])
    found = Positions(torch.tensor([[place]]), keys, None, HEAD, THETA, SINKS, WINDOW, place + 1)
    last = rotary(torch.tensor([[SINKS + WINDOW - 1]]), HEAD, THETA)
    torch.testing.assert_close(found.query, last)
    torch.testing.assert_close(found.sink_query, last)
    torch.testing.assert_close(found.key[0][:, SINKS:], rotary(torch.arange(2, 8).unsqueeze(0), HEAD, THETA)[0])
    assert torch.equal(found.mask, torch.zeros_like(found.mask))


def test_padding_is_never_seen() -> None:
    layer, x = SelfAttention(2 * HEAD, 2, "none"), torch.randn(1, 6, 2 * HEAD)
    valid = torch.tensor([[False, False, True, True, True, True]])
    place = torch.tensor([[0, 0, 0, 1, 2, 3]])
    padded = layer(x, Positions(place, place, valid, HEAD, THETA, SINKS, WINDOW, 0))
    torch.testing.assert_close(padded[:, 2:], layer(x[:, 2:], positions(4)))


def test_softmax_runs_in_float32() -> None:
    q = torch.full((1, 1, 1, 4), 40.0, dtype=torch.float16)
    k = torch.stack([torch.full((4,), 60.0), torch.full((4,), -60.0)]).half()[None, None]
    v = torch.tensor([[1.0], [2.0]], dtype=torch.float16)[None, None]
    assert attend(q, k, v, None).item() == 1.0


def test_fusion_attends_to_the_picture() -> None:
    layer = Fusion(16, 2, "none", 1e-6)
    z, vision = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    k, v = layer.kv_proj(vision).chunk(2, dim=-1)
    q = layer.q_proj(layer.norm(z))
    q, k, v = (x.unflatten(-1, (2, 8)).transpose(1, 2) for x in (q, k, v))
    expected = z + layer.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(z, layer.keys_values(vision)), expected)
    # With one vision token the softmax is a constant, with several the text decides where to look.
    assert not torch.allclose(layer(z, layer.keys_values(vision)), layer(z, layer.keys_values(vision.mean(1, True))))
