"""The losses against torch's own, value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bitmar.model import losses
from bitmar.model.bitlinear import BitLinear
from bitmar.model.losses import contrastive_loss, language_modelling_loss


@pytest.mark.parametrize("quantization", ["ternary", "none"])
@pytest.mark.parametrize("chunk", [7, 1024])
def test_chunked_cross_entropy_is_cross_entropy(monkeypatch, chunk: int, quantization: str) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    head, hidden = BitLinear(16, 50, quantization), torch.randn(3, 9, 16, requires_grad=True)
    labels = torch.randint(0, 50, (3, 9))
    labels[1, 4:] = -100
    labels[2, 0] = -100  # the first label is never a target, wherever the row begins

    found = language_modelling_loss(hidden, head, labels)
    logits = head(hidden[:, :-1]).float()
    expected = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(found, expected)
    parameters = (hidden, head.weight)
    torch.testing.assert_close(
        torch.autograd.grad(3 * found, parameters),
        torch.autograd.grad(3 * expected, parameters),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("chunk", [7, 1024])
def test_a_bonus_raises_the_logits_of_its_tokens(monkeypatch, chunk: int) -> None:
    monkeypatch.setattr(losses, "CHUNK", chunk)
    head, hidden = BitLinear(16, 50), torch.randn(3, 9, 16, requires_grad=True)
    labels = torch.randint(0, 50, (3, 9))
    labels[1, 4:] = -100
    ids, amount = torch.randint(0, 50, (3, 4)), 3 * torch.rand(3, 9, 4)

    found = language_modelling_loss(hidden, head, labels, bonus=(ids, amount))
    logits = head(hidden).float().scatter_add(2, ids.unsqueeze(1).expand(-1, 9, -1), amount)[:, :-1]
    expected = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(found, expected)
    (grad,), (right,) = torch.autograd.grad(found, hidden), torch.autograd.grad(expected, hidden)
    torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-6)


def test_loss_is_divided_by_the_tokens_of_the_whole_step() -> None:
    head, hidden, labels = BitLinear(16, 50), torch.randn(2, 5, 16), torch.randint(0, 50, (2, 5))
    mean = language_modelling_loss(hidden, head, labels)
    torch.testing.assert_close(language_modelling_loss(hidden, head, labels, 32), mean * 8 / 32)
    torch.testing.assert_close(language_modelling_loss(hidden, head, labels, torch.tensor(32)), mean * 8 / 32)


def test_a_batch_without_labels_costs_nothing() -> None:
    head, hidden = BitLinear(16, 50), torch.randn(2, 5, 16, requires_grad=True)
    loss = language_modelling_loss(hidden, head, torch.full((2, 5), -100))
    loss.backward()
    assert loss.item() == 0 and torch.equal(hidden.grad, torch.zeros_like(hidden))


def test_large_logits_do_not_overflow() -> None:
    head, hidden = BitLinear(16, 50, "none"), torch.full((1, 3, 16), 1e4)
    assert torch.isfinite(language_modelling_loss(hidden, head, torch.tensor([[1, 2, 3]])))


def test_evaluation_takes_no_gradient() -> None:
    head, hidden, labels = BitLinear(16, 50), torch.randn(2, 5, 16), torch.randint(0, 50, (2, 5))
    with torch.no_grad():
        assert not language_modelling_loss(hidden, head, labels).requires_grad


def info_nce(text: Tensor, vision: Tensor, scale: float, group: list[int]) -> float:
    """Pair by pair; a pair of the same group, other than itself, is no negative."""

    def one_way(a: Tensor, b: Tensor) -> float:
        total = 0.0
        for i in range(len(a)):
            others = [j for j in range(len(b)) if j == i or group[j] != group[i]]
            scores = [math.exp(scale * F.cosine_similarity(a[i], b[j], dim=0).item()) for j in others]
            total -= math.log(scores[others.index(i)] / sum(scores))
        return total / len(a)

    return (one_way(text, vision) + one_way(vision, text)) / 2


@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1]])
def test_contrastive_loss_by_loops(group: list[int]) -> None:
    text, vision, scale = torch.randn(5, 8), torch.randn(5, 8), torch.tensor(1 / 0.07)
    loss, cosine = contrastive_loss(text, vision, scale, torch.tensor(group))
    assert loss.item() == pytest.approx(info_nce(text, vision, 1 / 0.07, group), rel=1e-4)
    assert cosine.item() == pytest.approx(F.cosine_similarity(text, vision).mean().item(), abs=1e-6)


def test_contrastive_loss_without_groups_and_its_gradient() -> None:
    text, vision = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    scale = torch.tensor(5.0, requires_grad=True)
    loss, cosine = contrastive_loss(text, vision, scale)
    assert loss.item() == pytest.approx(info_nce(text.detach(), vision.detach(), 5.0, [0, 1, 2, 3]), rel=1e-4)
    assert not cosine.requires_grad
    loss.backward()
    assert all(x.grad.abs().sum() > 0 for x in (text, vision, scale))


def test_pairs_of_one_picture_alone_have_nothing_to_tell_apart() -> None:
    loss, _ = contrastive_loss(torch.randn(3, 8), torch.randn(3, 8), torch.tensor(10.0), torch.zeros(3))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_small_probabilities_outlast_float16() -> None:
    """Of e^-20, which float16 cannot hold, the loss is 20 all the same."""
    head = BitLinear(16, 50, "none")
    with torch.no_grad():
        head.weight.zero_()[1, 0] = 20
    hidden = torch.zeros(1, 2, 16)
    hidden[..., 0] = 1
    labels = torch.tensor([[0, 0]])
    exact = language_modelling_loss(hidden, head, labels)
    half = language_modelling_loss(hidden.half(), head.half(), labels)
    assert exact.item() == pytest.approx(20, abs=1e-3) and half.item() == pytest.approx(exact.item(), abs=0.02)
