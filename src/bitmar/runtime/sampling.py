"""Choosing tokens from logits, in numpy."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from bitmar.core.ternary import F32
from bitmar.runtime.cache import I64, Evidence
from bitmar.runtime.options import GenerationOptions


def choose(logits: F32, options: GenerationOptions, u: float) -> int:
    """The next token from finite logits (V,): the likeliest, or where the cumulated probability passes u in [0, 1)."""
    if options.temperature == 0:
        return int(logits.argmax())
    # Where nothing is cut off the vocabulary's own order will do.
    cut = options.top_k or options.top_p < 1
    order = np.argsort(-logits, kind="stable") if cut else np.arange(len(logits))
    if options.top_k:
        order = order[: options.top_k]
    # The likeliest token's share is e^0, so the sum is at least 1 however small the temperature.
    with np.errstate(over="ignore"):
        shares = np.exp((logits[order].astype(np.float64) - float(logits.max())) / options.temperature)
    if options.top_p < 1:
        # A token stays if the ones before it have not reached top_p yet; the likeliest always does.
        before = np.cumsum(shares) - shares
        shares = shares[before < options.top_p * shares.sum()]
    passed = np.cumsum(shares)
    return int(order[min(np.searchsorted(passed, u * passed[-1], side="right"), len(passed) - 1)])


def heed(logits: F32, written: Sequence[Collection[int]], last: Sequence[int], evidence: Evidence) -> F32:
    """Raise the logits (B, V) of what the image speaks for: a word's first token where a sequence has not written it
    yet, its others right after the one before."""
    ids, bonus, after = evidence
    if not len(ids):
        return logits
    logits = logits.copy()
    for row, tokens, newest in zip(logits, written, last, strict=True):
        due = np.array(
            [follows == newest if follows >= 0 else i not in tokens for i, follows in zip(ids, after, strict=True)]
        )
        np.add.at(row, ids[due], bonus[due])
    return logits


def penalize(scores: F32, written: Sequence[Collection[int]], penalty: float) -> F32:
    """Lower the scores (B, V) of what each sequence has written: divided if positive, multiplied if negative."""
    if penalty == 1:
        return scores
    scores = scores.copy()
    for row, tokens in zip(scores, written, strict=True):
        seen = np.array(sorted(set(tokens)))
        row[seen] = np.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return scores


def largest(scores: F32, count: int) -> I64:
    """Places of the largest of each row (B, V), the largest first, of equal ones the first: (B, count)."""
    order: I64 = np.argsort(-scores, axis=-1, kind="stable")[:, :count]
    return order
