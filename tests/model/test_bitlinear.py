"""BitLinear against explicit formulas, and against the numpy reference that the runtime follows."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitmar.core import ternary
from bitmar.model.bitlinear import BitLinear, RMSNorm, activation, quantize_activation, quantize_weight


def straight_through(x: Tensor, weight: Tensor) -> Tensor:
    """BitLinear written with w + (q - w).detach(), so that autograd differentiates it by itself."""
    codes, gamma = quantize_weight(weight)
    x_q, scale = quantize_activation(x)
    return F.linear(x + (x_q * scale - x).detach(), weight + (codes * gamma - weight).detach())


def test_absmean_by_hand() -> None:
    codes, gamma = quantize_weight(torch.tensor([[0.1, -0.9, 0.4], [2.0, -0.2, 0.0]]))
    assert gamma.item() == pytest.approx(0.6)
    assert codes.tolist() == [[0, -1, 1], [1, 0, 0]]


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 9), width=st.integers(1, 70), size=st.floats(1e-6, 1e4))
def test_quantisation_equals_the_runtime_reference(seed: int, rows: int, width: int, size: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((rows, width)) * size).astype(np.float32)
    x_q, scale = quantize_activation(torch.from_numpy(values))
    expected, expected_scale = ternary.quantize_activations(values)
    np.testing.assert_array_equal(scale.numpy(), expected_scale)
    np.testing.assert_array_equal(x_q.numpy(), expected)
    codes, gamma = quantize_weight(torch.from_numpy(values))
    expected_codes, expected_gamma = ternary.absmean(values)
    np.testing.assert_allclose(gamma.numpy(), expected_gamma, rtol=1e-6)
    # The two means may differ in the last bit, which moves a weight that lies on the threshold.
    on_the_edge = np.abs(np.abs(values / expected_gamma) - 0.5) < 1e-5
    np.testing.assert_array_equal(codes.numpy()[~on_the_edge], expected_codes[~on_the_edge])


def test_forward_equals_the_runtime_reference() -> None:
    layer, x = BitLinear(37, 11), torch.randn(3, 5, 37)
    x_q, scale = ternary.quantize_activations(x.numpy())
    expected = ternary.ternary_linear(x_q, scale, *ternary.absmean(layer.weight.detach().numpy()))
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_zeros_stay_zeros() -> None:
    layer = BitLinear(8, 4)
    assert torch.equal(layer(torch.zeros(2, 8)), torch.zeros(2, 4))
    torch.nn.init.zeros_(layer.weight)
    assert torch.equal(layer(torch.randn(2, 8)), torch.zeros(2, 4))


def test_straight_through_gradient() -> None:
    layer, x, upstream = BitLinear(24, 10), torch.randn(4, 6, 24), torch.randn(4, 6, 10)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    layer(a).backward(upstream)
    straight_through(b, weight).backward(upstream)
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    # It is not the gradient of the unquantised layer.
    assert not torch.allclose(a.grad, upstream @ layer.weight, atol=1e-2)


def test_operands_multiply_to_the_layer() -> None:
    layer, x, upstream = BitLinear(24, 10), torch.randn(7, 24, requires_grad=True), torch.randn(7, 10)
    left, right = layer.operands(x)
    torch.testing.assert_close(left @ right.T, layer(x), rtol=1e-5, atol=1e-5)
    by_layer = torch.autograd.grad(layer(x), (x, layer.weight), upstream)
    by_operands = torch.autograd.grad(left @ right.T, (x, layer.weight), upstream)
    torch.testing.assert_close(by_layer, by_operands, rtol=1e-5, atol=1e-5)


def test_integers_are_exact_in_float32() -> None:
    """4,096 products of up to 127 stay far below 2^24, so no order of summation can change a bit."""
    x_q, _ = quantize_activation(torch.randn(16, 4096))
    codes, _ = quantize_weight(torch.randn(8, 4096))
    exact = x_q.long() @ codes.long().T
    assert torch.equal((x_q @ codes.T).long(), exact)
    order = torch.randperm(4096)
    assert torch.equal((x_q[:, order] @ codes[:, order].T).long(), exact)


def test_a_row_is_bit_identical_alone_and_in_a_batch() -> None:
    layer, x = BitLinear(200, 33), torch.randn(17, 200)
    together = layer(x)
    assert all(torch.equal(layer(x[i : i + 1]), together[i : i + 1]) for i in range(len(x)))


def test_float16_does_not_overflow() -> None:
    """127 * 2,048 is four times what float16 can hold; the result itself is 2,048."""
    layer = BitLinear(2048, 4)
    torch.nn.init.ones_(layer.weight)
    layer.half()
    x = torch.ones(3, 2048, dtype=torch.float16, requires_grad=True)
    y = layer(x)
    assert torch.equal(y, torch.full((3, 4), 2048.0, dtype=torch.float16))
    y.float().mean().backward()
    assert torch.isfinite(x.grad).all() and torch.isfinite(layer.weight.grad).all()


def test_bfloat16_autocast_keeps_the_integers() -> None:
    layer, x = BitLinear(128, 16), torch.randn(5, 128)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=2**-6, atol=1e-6)  # only the scaled result was rounded


def test_cached_codes_follow_the_weight() -> None:
    layer, x = BitLinear(16, 8), torch.randn(3, 16)
    with torch.no_grad():
        first = layer(x)
        assert layer.codes(torch.float32)[0] is layer.codes(torch.float32)[0]
        layer.weight.neg_()
        torch.testing.assert_close(layer(x), -first)
        layer.load_state_dict({"weight": torch.zeros(8, 16)})
        assert torch.equal(layer(x), torch.zeros(3, 8))
    assert copy.deepcopy(layer)._cached is None


def test_unquantised_is_linear() -> None:
    layer, x = BitLinear(16, 8, "none"), torch.randn(3, 16)
    assert torch.equal(layer(x), F.linear(x, layer.weight))


def test_zero_fraction_of_a_gaussian() -> None:
    layer = BitLinear(512, 512)
    torch.nn.init.normal_(layer.weight)
    assert layer.zero_fraction() == pytest.approx(0.310, abs=0.005)  # P(|z| < mean|z| / 2)


def test_rms_norm_and_activations() -> None:
    x, norm = torch.randn(2, 3, 12), RMSNorm(12, eps=1e-6)
    torch.nn.init.uniform_(norm.weight)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.to(torch.bfloat16)).dtype == torch.float32
    torch.testing.assert_close(activation("relu2", x), x.clamp(min=0) ** 2)
    torch.testing.assert_close(activation("gelu", x), x * 0.5 * (1 + torch.erf(x / 2**0.5)))
