"""The episodic memory (paper section 3.4) with an explicit state: passed in, returned, never hidden."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bitmar.core.config import ModelConfig
from bitmar.core.errors import ConfigError
from bitmar.core.ternary import F32
from bitmar.runtime.layers import Linear, Weights, rms_norm, softmax, softplus

_USAGE_FLOOR = np.float32(1e-4)


class MemoryState(NamedTuple):
    """Slots M (B, K, C) and usage (B, K) in [0, 1], 1 is just used. B = 1 serves any number of sequences."""

    slots: F32
    usage: F32

    def select(self, sequences: npt.NDArray[np.int64]) -> MemoryState:
        """The same for chosen sequences of the batch."""
        return MemoryState(self.slots[sequences], self.usage[sequences])


def check_state(memory: object, config: ModelConfig) -> None:
    """Raise ConfigError for what is no state of one memory of such a model, K finite slots with their usage."""
    if not isinstance(memory, MemoryState):
        raise ConfigError(f"a memory is a Session, or what `remember` returned, not {type(memory).__name__}")
    wanted = (1, config.memory_slots, config.memory_dim)
    try:
        slots, usage = (np.asarray(part, np.float32) for part in memory)
    except (TypeError, ValueError):
        raise ConfigError("a memory's slots and usage are arrays of numbers") from None
    if (slots.shape, usage.shape) != (wanted, wanted[:2]):
        raise ConfigError("this memory belongs to another model: its slots have another shape")
    if not (np.isfinite(slots).all() and (usage >= 0).all() and (usage <= 1).all()):
        raise ConfigError("this memory is damaged: its slots are not finite, or its usage is not between 0 and 1")


class QueryCarry(NamedTuple):
    """The state of the running mean: weighted sum (B, d), weight (B, 1), length of the segment."""

    total: F32
    weight: F32
    length: int

    def select(self, sequences: npt.NDArray[np.int64]) -> QueryCarry:
        """The same for chosen sequences of the batch."""
        return QueryCarry(self.total[sequences], self.weight[sequences], self.length)


class Write(enum.IntEnum):
    """Which segments of a call are written: none, those that end in it, or the unfinished one as well."""

    NEVER = 0
    ENDED = 1
    ALL = 2


class EpisodicMemory:
    """K slots of width C, read at every token, written only on request, at the end of a segment.

    Read (eq. 2):  w = softmax(beta q M^T + rho log u),  r = w M.
    Write (eq. 1): M <- (1 - alpha a) * M + alpha a q^T,  a = softmax(beta_w (W_a q) M^T - kappa u);
    `write_rule="literal"`: M <- M + alpha W_w q^T with a learned vector W_w.
    """

    def __init__(self, weights: Weights, config: ModelConfig) -> None:
        name = "model.memory"
        self.segment, self.eps = config.memory_segment, config.norm_eps
        self.alpha, self.decay = np.float32(config.memory_alpha), np.float32(config.memory_decay)
        self.literal = config.write_rule == "literal"
        self.slots = weights.array(f"{name}.slots")  # M_0
        self.query_norm = weights.array(f"{name}.query_norm.weight")
        self.read_norm = weights.array(f"{name}.read_norm.weight")
        self.query_proj: Linear | None = None
        if config.hidden_size != config.memory_dim:
            self.query_proj = weights.linear(f"{name}.query_proj")
        learned = config.query_pooling == "learned"
        self.pooling = weights.array(f"{name}.pooling") if learned else None
        self.read_beta = weights.scalar(f"{name}.read_beta")
        self.stale = softplus(weights.scalar(f"{name}.stale"))  # rho
        if self.literal:
            self.write_weights = weights.array(f"{name}.write_weights")
        else:
            self.address = weights.array(f"{name}.address")
            self.write_beta = weights.scalar(f"{name}.write_beta")
            self.protect = softplus(weights.scalar(f"{name}.protect"))  # kappa

    def initial_state(self) -> MemoryState:
        """M_0, every slot fresh."""
        return MemoryState(self.slots[None], np.ones((1, len(self.slots)), np.float32))

    def __call__(
        self, fused: F32, state: MemoryState, carry: QueryCarry | None, write: Write = Write.NEVER
    ) -> tuple[F32, MemoryState, QueryCarry, F32]:
        """Read for every token of fused (B, T, d), and write what `write` says.

        Returns the normed reads (B, T, C), the state afterwards, the carry, and the last query (B, C). No token reads
        what its own segment writes.
        """
        reads = []
        for part in self._segments(fused.shape[1], carry):
            q, carry = self._query(fused[:, part], carry)
            reads.append(self.read(q, state))
            ended = carry.length == 0
            if write is Write.ALL or (write is Write.ENDED and ended):
                state = self.write(q[:, -1], state)
        assert carry is not None  # there is at least one segment
        return rms_norm(np.concatenate(reads, axis=1), self.read_norm, self.eps), state, carry, q[:, -1]

    def _segments(self, length: int, carry: QueryCarry | None) -> list[slice]:
        """The new tokens by segment; the first may go on with a segment that an earlier call began."""
        begun = carry.length if carry else 0
        starts = [0, *range(self.segment - begun, length, self.segment)]
        return [slice(a, b) for a, b in zip(starts, [*starts[1:], length], strict=True)]

    def _query(self, fused: F32, carry: QueryCarry | None) -> tuple[F32, QueryCarry]:
        """Mean of the segment's fused tokens up to each of these: q (B, T, C), and the carry after them."""
        batch, length, width = fused.shape
        if carry is None:
            carry = QueryCarry(np.zeros((batch, width), np.float32), np.zeros((batch, 1), np.float32), 0)
        weight = np.ones((batch, length, 1), np.float32)
        if self.pooling is not None:
            weight = np.exp(np.clip(fused @ self.pooling, -10, 10))[..., None]
        # Summed in float64: how a text was cut into calls then changes no more than a rounding.
        total = np.cumsum(fused * weight, axis=1, dtype=np.float64).astype(np.float32) + carry.total[:, None]
        count = np.cumsum(weight, axis=1, dtype=np.float64).astype(np.float32) + carry.weight[:, None]
        mean = total / np.maximum(count, np.float32(1e-6))
        q = rms_norm(self.query_proj(mean) if self.query_proj else mean, self.query_norm, self.eps)
        place = carry.length + length
        if place == self.segment:  # the next token starts a new segment
            return q, QueryCarry(np.zeros_like(carry.total), np.zeros_like(carry.weight), 0)
        return q, QueryCarry(total[:, -1], count[:, -1], place)

    def read_weights(self, q: F32, state: MemoryState) -> F32:
        """q (B, T, C) -> the share of each slot in its read, w (B, T, K); each row sums to 1."""
        stale = self.stale * np.log(np.maximum(state.usage, _USAGE_FLOOR))
        weights: F32 = softmax(self.read_beta * (q @ state.slots.swapaxes(-1, -2)) + stale[:, None])
        return weights

    def read(self, q: F32, state: MemoryState) -> F32:
        """q (B, T, C) -> r (B, T, C)."""
        read: F32 = self.read_weights(q, state) @ state.slots
        return read

    def write(self, q: F32, state: MemoryState) -> MemoryState:
        """Store one query (B, C) per sequence and return the new state."""
        slots, usage = state
        if self.literal:
            change = self.alpha * self.write_weights[None, :, None] * q[:, None]
            touched = np.abs(self.write_weights)[None]
        else:
            resemblance = ((q @ self.address.T)[:, None] @ slots.swapaxes(1, 2))[:, 0]
            touched = softmax(self.write_beta * resemblance - self.protect * usage)  # a, (B, K)
            change = self.alpha * touched[..., None] * (q[:, None] - slots)
        reads = self.read_weights(q[:, None], state)[:, 0]
        return MemoryState(slots + change, np.clip(self.decay * usage + touched + reads, 0, 1))
