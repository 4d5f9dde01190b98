"""The memory in one forward: a running query, a write at every segment's end, reads of earlier segments."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from .arguments import Rows
from .cache import BitMarCache
from .memory import EpisodicMemory, MemoryState


def remember(
    memory: EpisodicMemory,
    f: Tensor,
    valid: Tensor,
    cache: BitMarCache | None,
    state: MemoryState | None,
    write: bool,
    rows: Rows,
) -> tuple[Tensor, Tensor, MemoryState, Tensor | None]:
    """Fused tokens f (B, T, d) -> reads r (B, T, C), their weights (B, T, K), the state afterwards, change per write.

    valid: (B, T), False on padding. state: to start from; where it is None that of the cache, or M_0.
    """
    batch = f.shape[0]
    if state is None:
        state = cache.memory if cache is not None else None
    q, segment, carry = memory.query(f, valid, cache.carry if cache is not None else None)
    chains = batch // rows.episodes
    given = state is not None
    if state is not None:  # one state may serve a whole batch, or the beams of its prompt
        wanted = chains if write else batch
        state = MemoryState(*(x.repeat_interleave(wanted // x.shape[0], dim=0) for x in state))
    else:  # without writes every sequence reads the same M_0: one product for all of them
        state = memory.initial_state(chains if write else 1)
    per_row = memory.segments(f.shape[1], cache is not None and cache.carry is not None)
    if cache is not None:
        cache.remember_queries(carry)
        cache.memory = state if given else None
    if not write:
        read, weights = memory.read(q, state)
        return read, weights, state, None

    ends = _segment_ends(segment, valid, per_row)  # (B, S), -1 where a row has no such segment
    if cache is not None:  # a segment that goes on in the next call is written when it ends, as in one long forward
        unfinished = nn.functional.one_hot(segment[:, -1], per_row) * carry.length[:, -1:]
        ends = ends.masked_fill(unfinished > 0, -1)
    q_end = q.gather(1, ends.clamp(min=0).unsqueeze(-1).expand(-1, -1, q.shape[-1]))
    each, after, change = memory.scan(
        q_end.reshape(chains, rows.episodes * per_row, -1), (ends >= 0).reshape(chains, -1), state, rows.one_shot
    )
    if per_row == 1:
        read, weights = memory.read(q, each)
    else:
        slots, usage = each.slots.unflatten(0, (batch, per_row)), each.usage.unflatten(0, (batch, per_row))
        reads = [memory.read(q, MemoryState(slots[:, s], usage[:, s])) for s in range(per_row)]
        pick = nn.functional.one_hot(segment, per_row).unsqueeze(-1).to(q.dtype)
        none = torch.zeros((), dtype=q.dtype, device=q.device)
        read, weights = (sum((x[i] * pick[:, :, s] for s, x in enumerate(reads)), none) for i in range(2))
    if cache is not None:
        before = MemoryState(*(x.unflatten(0, (batch, per_row)) for x in each))
        cache.remember_writes(ends, before, after)
    return read, weights, after, change


def _segment_ends(segment: Tensor, valid: Tensor, per_row: int) -> Tensor:
    """Index of the last valid token of every segment, (B, S)."""
    index = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    index = index.masked_fill(~valid, -1)
    return torch.stack([index.masked_fill(segment != s, -1).max(1).values for s in range(per_row)], dim=1)
