"""The losses of section 3.4.2: language modelling in chunks of tokens, and the symmetric InfoNCE across ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .bitlinear import BitLinear

CHUNK = 512  # tokens whose logits exist at the same time


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of softmax(x W^T); each chunk's gradient is taken while its logits exist, then they go.

    Both buffers are made once: fresh ones of this size would cost more, page by page, than the products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        labels: Tensor,
        factors: Tensor | None,
        bonus: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        total = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_w = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        logits = x.new_empty(min(CHUNK, len(x)), len(weight))
        # float16 would lose small probabilities; bfloat16 has float32's range.
        p = logits.float() if x.dtype == torch.float16 else torch.empty_like(logits)
        for start in range(0, len(x), CHUNK):
            part, label = x[start : start + CHUNK], labels[start : start + CHUNK].unsqueeze(1)
            logits, p = logits[: len(part)], p[: len(part)]
            torch.matmul(part, weight.T, out=logits)
            if bonus is not None:
                ids, amount = (b[start : start + CHUNK] for b in bonus)
                logits.scatter_add_(1, ids, amount.to(logits.dtype))
            torch.softmax(logits, dim=-1, dtype=p.dtype, out=p)
            right = p.gather(1, label)
            log = right.float().clamp(min=torch.finfo(torch.float32).tiny).log()
            p.scatter_(1, label, right - 1)
            if factors is not None:
                factor = factors[start : start + CHUNK].unsqueeze(1)
                log = log * factor
                p *= factor.to(p.dtype)
            total -= log.sum()
            if grad_x is not None:
                torch.matmul(p.to(x.dtype), weight, out=grad_x[start : start + CHUNK])
            if grad_w is not None:
                grad_w += p.to(x.dtype).T @ part
        ctx.save_for_backward(grad_x, grad_w)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x, grad_w = ctx.saved_tensors
        if grad_x is not None:
            grad_x = grad_x * grad.to(grad_x.dtype)
        if grad_w is not None:
            grad_w = (grad_w * grad).to(ctx.weight_dtype)
        return grad_x, grad_w, None, None, None


def language_modelling_loss(
    hidden: Tensor,
    head: BitLinear,
    labels: Tensor,
    num_items: Tensor | int | None = None,
    row_weights: Tensor | None = None,
    bonus: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean next-token cross-entropy without ever holding T x V logits.

    Args:
        hidden: (B, T, d) before the head. head: a BitLinear (d -> V). labels: (B, T), -100 where nothing is to be
            predicted; position t is scored on label t + 1. num_items: tokens to divide by when a step is made of
            several batches. row_weights: (B,) factor of each row's cross-entropy. bonus: token ids (B, n), and what is
            added to their logits at every position (B, T, n).
    """
    target = labels[:, 1:].flatten()
    keep = target != -100
    x, weight = head.operands(hidden[:, :-1].flatten(0, 1)[keep])
    factors = None
    if row_weights is not None:
        factors = row_weights.float().unsqueeze(1).expand(-1, labels.shape[1] - 1).flatten()[keep]
    if bonus is not None:
        ids, amount = bonus[0].unsqueeze(1).expand_as(bonus[1]), bonus[1]
        bonus = ids[:, :-1].flatten(0, 1)[keep], amount[:, :-1].flatten(0, 1)[keep]
    total = _ChunkedCrossEntropy.apply(x, weight, target[keep], factors, bonus)
    return total / (keep.sum().clamp(min=1) if num_items is None else num_items)


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks, with gradients; the tensor itself when there is one process."""
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(x))
    return x


def contrastive_loss(
    text: Tensor, vision: Tensor, scale: Tensor, group: Tensor | None = None, present: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Symmetric InfoNCE (arXiv 1807.03748, 2103.00020) over all pairs of all ranks.

    Args:
        text, vision: pooled caption and pooled vision tokens, (B, d). scale: 1 / temperature. group: (B,) equal for
            pairs that show the same picture; those are no negatives of each other. present: (B,) False for rows that
            have no picture; they are no pairs.
    Returns:
        The loss, None with fewer than two pairs, which leave nothing to tell apart; and the mean cosine of the pairs
        (the alignment that the controller watches), None without one.
    """
    text, vision = F.normalize(text.float(), dim=-1), F.normalize(vision.float(), dim=-1)
    paired = torch.ones(len(text), dtype=torch.bool, device=text.device) if present is None else present.bool().view(-1)
    text, vision, paired = gather(text), gather(vision), gather(paired.long()).bool()
    pairs = int(paired.sum())
    cosine = (text * vision).sum(-1)[paired].mean().detach() if pairs else None
    if pairs < 2:
        return None, cosine
    logits = scale * text @ vision.T
    no_negative = ~paired | ~paired.unsqueeze(1)
    if group is not None:
        group = gather(group)
        no_negative |= group.unsqueeze(0) == group.unsqueeze(1)
    logits = logits.masked_fill(no_negative.fill_diagonal_(False), torch.finfo(logits.dtype).min)
    target = torch.arange(len(logits), device=logits.device).masked_fill(~paired, -100)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2, cosine
