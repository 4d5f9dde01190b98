"""Which tokens are padding, by an attention mask of any shape. The order is always causal."""

from __future__ import annotations

import torch
from torch import Tensor


def valid_tokens(attention_mask: Tensor, batch: int, length: int) -> Tensor:
    """Which of the `length` newest tokens are no padding, (B, T) bool.

    Args:
        attention_mask: 0 or False on padding: (B, T_k), or (B, T, T_k) or (B, 1, T, T_k) with a row per query, where a
            float mask may also be added to the scores (0, and far below 0 on padding). T_k is T, or T_past + T with a
            cache. Rows of padded queries may hold anything that is usual there: nothing, all, or what is before them.
    Raises:
        ValueError: another shape, or a mask that asks for more than padding and causal order.
    """
    mask = attention_mask
    if mask.dim() == 4:
        mask = mask[:, 0]
    if mask.dim() not in (2, 3) or mask.shape[-1] < length or mask.shape[0] not in (1, batch):
        raise ValueError(
            f"attention_mask of shape {tuple(attention_mask.shape)} does not fit {batch} sequences of {length} tokens: "
            "it is (B, T), (B, T, T) or (B, 1, T, T); with a cache its last axis counts the past too"
        )
    if mask.dim() == 2:
        return (mask[:, -length:] != 0).expand(batch, length)
    if mask.shape[1] < length:
        raise ValueError(f"attention_mask has rows for {mask.shape[1]} queries, not for {length}")
    allowed = _allowed(mask[:, -length:]).expand(batch, -1, -1)
    past, new = allowed[..., :-length], allowed[..., -length:]  # (B, T, T) of the new tokens among themselves
    order = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    before = order.tril(-1)
    causal = ~(new & ~order).any(-1)  # (B, T): a query that looks ahead is a padded one
    seen_later = (new & before & causal.unsqueeze(-1)).any(1)  # some query after it looks at it
    own = new.diagonal(dim1=1, dim2=2) & causal
    looks_back = (new & before).any(-1) | past.any(-1)
    valid = seen_later | (own & looks_back)
    valid = torch.where(valid.any(-1, keepdim=True), valid, own)
    if not torch.compiler.is_compiling():
        expected = valid.unsqueeze(1) & order
        if bool((valid & (new != expected).any(-1)).any()):
            raise ValueError(
                "attention_mask masks more than padding: a BitMar is causal over whole sequences, and its memory reads "
                "them in order. Put packed documents or other patterns into rows of their own"
            )
    return valid


def _allowed(mask: Tensor) -> Tensor:
    """True where a query may look. A float mask is one of factors (1, 0) or of summands (0, -inf)."""
    if not mask.is_floating_point():
        return mask != 0
    return torch.where(mask.amax() > 0, mask > 0, mask > -1)
