"""The episodic memory (paper section 3.4) with an explicit state: passed in, returned, never hidden in the module."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .bitlinear import BitLinear, RMSNorm
from .configuration_bitmar import BitMarConfig

# A softer start spreads every write over all slots, and a memory that stores nothing learns nothing.
SHARP_ADDRESS = 4.0
USAGE_FLOOR = 1e-4


class MemoryState(NamedTuple):
    """One memory per sequence: slots M (B, K, C) and usage (B, K) in [0, 1]; a slot at usage 1 was just used.

    float32 whatever the weights are: a write adds a small part of a query to what is there.
    """

    slots: Tensor
    usage: Tensor

    def select(self, index: Tensor) -> MemoryState:
        """The states of the sequences `index`, for beams."""
        return MemoryState(self.slots.index_select(0, index), self.usage.index_select(0, index))


class QueryCarry(NamedTuple):
    """The running mean after each token: weighted sum (B, T, d), weight (B, T, 1), tokens in the open segment (B, T).

    The next call goes on from the last one.
    """

    total: Tensor
    weight: Tensor
    length: Tensor


class EpisodicMemory(nn.Module):
    """K slots of width C that are read at every token and written at the end of a segment.

    Read (eq. 2):  w = softmax(beta q M^T + rho log u),  r = w M.
    Write (eq. 1): M <- (1 - alpha a) * M + alpha a q^T,  a = softmax(beta_w (W_a q) M^T - kappa u): the address prefers
    slots that resemble the query and slots that have not been used lately. `write_rule="literal"` is eq. 1 unchanged:
    M <- M + alpha W_w q^T with a learned vector W_w. Usage u decays by `decay` at every write and is refreshed by reads
    and writes; rho, kappa >= 0 are learned.
    """

    read_beta: nn.Parameter
    stale: nn.Parameter
    write_beta: nn.Parameter
    protect: nn.Parameter

    def __init__(self, config: BitMarConfig) -> None:
        super().__init__()
        d, c, k = config.hidden_size, config.memory_dim, config.memory_slots
        self.alpha, self.decay, self.segment = config.memory_alpha, config.memory_decay, config.memory_segment
        self.write_rule = config.write_rule
        self.slots = nn.Parameter(torch.empty(k, c))  # M_0
        self.query_norm = RMSNorm(c, config.norm_eps)
        self.query_proj = BitLinear(d, c, config.quantization) if d != c else None
        self.pooling = nn.Parameter(torch.zeros(d)) if config.query_pooling == "learned" else None
        self.starts = {"read_beta": 1 / math.sqrt(c), "stale": -2.0}  # rho = softplus(stale)
        if self.write_rule == "literal":
            self.write_weights = nn.Parameter(torch.empty(k))  # W_w
        else:
            self.address = nn.Parameter(torch.eye(c))  # W_a
            self.starts |= {"write_beta": SHARP_ADDRESS / math.sqrt(c), "protect": 0.0}  # kappa = softplus(protect)
        for name, value in self.starts.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))
        self.read_norm = RMSNorm(c, config.norm_eps)

    def initial_state(self, batch: int) -> MemoryState:
        """M_0 for `batch` sequences, every slot fresh."""
        usage = torch.ones(batch, self.slots.shape[0], device=self.slots.device)
        return MemoryState(self.slots.float().unsqueeze(0).expand(batch, -1, -1), usage)

    def query(self, fused: Tensor, mask: Tensor, carry: QueryCarry | None = None) -> tuple[Tensor, Tensor, QueryCarry]:
        """Running mean of the fused tokens of the current segment.

        Args:
            fused: (B, T, d). mask: (B, T), 0 on padding. carry: from the call that saw the tokens before these.
        Returns:
            q (B, T, C), the index of each token's segment counted from the segment of the first one (B, T), and the
            carry.
        """
        fused, mask = fused.float(), mask.float()
        batch, length, _ = fused.shape
        before = carry.length[:, -1] if carry else torch.zeros(batch, dtype=torch.long, device=fused.device)
        seen = before.unsqueeze(1) + mask.long().cumsum(1)  # within the segment that the carry is in
        segment = (seen - 1).clamp(min=0) // self.segment  # (B, T)
        weight = mask
        if self.pooling is not None:
            weight = mask * (fused @ self.pooling.float()).clamp(-10, 10).exp()
        weighted = fused * weight.unsqueeze(-1)
        total, count = weighted.cumsum(1), weight.unsqueeze(-1).cumsum(1)
        # A segment's sum is the sum so far less the sum at its start. Within the first segment nothing is subtracted.
        # A graph that is traced for any length takes the general way.
        if torch.compiler.is_compiling() or self.segments(length, carry is not None) > 1:
            total, count = self._since_segment_start(total, count, segment)
        if carry is not None:
            first = (segment == 0).unsqueeze(-1)
            total = total + first * carry.total[:, -1:]
            count = count + first * carry.weight[:, -1:]
        mean = total / count.clamp(min=1e-6)
        q = self.query_norm(mean if self.query_proj is None else self.query_proj(mean)).float()
        open_length = seen % self.segment
        fresh = (open_length == 0).unsqueeze(-1)  # the next token starts a new segment
        return q, segment, QueryCarry(total.masked_fill(fresh, 0.0), count.masked_fill(fresh, 0.0), open_length)

    def segments(self, length: int, carried: bool) -> int:
        """The most segments that `length` tokens can lie in; carried: the first may have begun in an earlier call."""
        return (length - 1 + (self.segment - 1 if carried else 0)) // self.segment + 1

    @staticmethod
    def _since_segment_start(total: Tensor, count: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
        length = segment.shape[1]
        index = torch.arange(length, device=segment.device).expand_as(segment)
        starts = segment != segment.roll(1, dims=1)  # the first token's index is 0 either way
        start = torch.where(starts, index, torch.zeros_like(index)).cummax(1).values  # first token of each segment
        has_before = (start > 0).unsqueeze(-1)
        at = (start - 1).clamp(min=0).unsqueeze(-1)
        before_total = torch.gather(total, 1, at.expand_as(total))
        before_count = torch.gather(count, 1, at.expand_as(count))
        return total - before_total * has_before, count - before_count * has_before

    def _read_logits(self, q: Tensor, state: MemoryState) -> Tensor:
        stale = F.softplus(self.stale.float()) * state.usage.clamp(min=USAGE_FLOOR).log()
        return self.read_beta.float() * (q @ state.slots.transpose(-1, -2)) + stale.unsqueeze(-2)

    def read(self, q: Tensor, state: MemoryState) -> tuple[Tensor, Tensor]:
        """q (B, T, C) -> r (B, T, C) and the read weights (B, T, K)."""
        weights = self._read_logits(q, state).softmax(dim=-1)
        return weights @ state.slots, weights

    def write(self, q: Tensor, state: MemoryState, valid: Tensor | None = None) -> tuple[MemoryState, Tensor]:
        """Stores one query (B, C) per sequence.

        Args:
            valid: (B,) bool, False where this sequence has nothing to write.
        Returns:
            The new state and the squared change of the slots per sequence (B,) (eq. 3).
        """
        slots, usage = state
        if self.write_rule == "literal":
            address = self.write_weights.float().expand(q.shape[0], -1)
            change = self.alpha * address.unsqueeze(-1) * q.unsqueeze(1)
            touched = address.detach().abs()
        else:
            logits = self.write_beta.float() * (
                (q @ self.address.float().T).unsqueeze(1) @ slots.transpose(1, 2)
            ).squeeze(1)
            address = (logits - F.softplus(self.protect.float()) * usage).softmax(dim=-1)  # (B, K)
            change = self.alpha * address.unsqueeze(-1) * (q.unsqueeze(1) - slots)
            touched = address.detach()
        with torch.no_grad():
            reads = self._read_logits(q.unsqueeze(1), state).softmax(dim=-1).squeeze(1)
            new_usage = (self.decay * usage + touched + reads).clamp(0, 1)
        if valid is not None:
            change = change * valid.view(-1, 1, 1)
            new_usage = torch.where(valid.unsqueeze(1), new_usage, usage)
        return MemoryState(slots + change, new_usage), change.square().sum((1, 2))

    def place(self, q: Tensor, state: MemoryState, slot: Tensor, valid: Tensor) -> tuple[MemoryState, Tensor]:
        """Stores one query (B, C) per sequence whole, in the slot (B,) of its own: how a session remembers.

        Returns as `write`.
        """
        chosen = F.one_hot(slot, state.slots.shape[1]).bool() & valid.unsqueeze(1)  # (B, K)
        slots = torch.where(chosen.unsqueeze(-1), q.unsqueeze(1), state.slots)
        usage = state.usage.masked_fill(chosen, 1.0)
        return MemoryState(slots, usage), (slots - state.slots).square().sum((1, 2))

    def scan(
        self, q: Tensor, valid: Tensor, state: MemoryState, one_shot: bool = False
    ) -> tuple[MemoryState, MemoryState, Tensor]:
        """Writes the segments of each sequence one after the other.

        Args:
            q: queries at segment ends (B, S, C). valid: (B, S) bool. state: M before the first segment.
            one_shot: each into a slot of its own, drawn at random, in place of the write rule.
        Returns:
            The states that each segment reads, stacked to (B * S, K, C) and (B * S, K); the state after the last one;
            the mean squared change per write (scalar).
        """
        before, changes = [], []
        own = (
            torch.rand(state.usage.shape, device=q.device).argsort(1) if one_shot else None
        )  # (B, K), an order of slots
        for s in range(q.shape[1]):
            before.append(state)
            if own is None:
                state, change = self.write(q[:, s], state, valid[:, s])
            else:
                state, change = self.place(q[:, s], state, own[:, s % own.shape[1]], valid[:, s])
            changes.append(change)
        read = MemoryState(
            torch.stack([m.slots for m in before], 1).flatten(0, 1),
            torch.stack([m.usage for m in before], 1).flatten(0, 1),
        )
        loss = torch.stack(changes, 1).sum() / valid.sum().clamp(min=1)
        return read, state, loss
