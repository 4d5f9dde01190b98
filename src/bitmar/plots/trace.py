"""The slow engine with its insides out: every attention weight and every read of the memory, at no cost to others."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bitmar.core.container import Container
from bitmar.core.ternary import F32
from bitmar.runtime.attention import Fusion, Positions, SelfAttention, join_heads, split_heads
from bitmar.runtime.cache import I64, DecodingState, ImageTokens
from bitmar.runtime.engine import Engine
from bitmar.runtime.layers import rms_norm, softmax
from bitmar.runtime.memory import EpisodicMemory, MemoryState


@dataclass
class Trace:
    """Weights of one forward over tokens (T,), mean over heads; each row sums to 1.

    encoder, decoder: per layer, on the tokens (T, T). vision: on the vision tokens (T, N), None without a picture.
    reads: on the slots (T, K), None without a memory.
    """

    encoder: list[F32] = field(default_factory=list)
    decoder: list[F32] = field(default_factory=list)
    vision: F32 | None = None
    reads: F32 | None = None


class Tracer:
    """Runs a model and keeps what it attends to."""

    def __init__(self, container: Container) -> None:
        self._engine, self.now = Engine(container), Trace()
        config = container.config
        self._most = config.attention_sinks + config.attention_window
        for stack, name in ((self._engine.encoder, "encoder"), (self._engine.decoder, "decoder")):
            for block in stack.blocks:
                block.attn = _SelfAttention(block.attn, self, name)
        self._engine.fusion = _Fusion(self._engine.fusion, self)
        if self._engine.memory is not None:
            self._engine.memory = _Memory(self._engine.memory, self)

    def run(self, ids: I64, image: ImageTokens | None = None, memory: MemoryState | None = None) -> Trace:
        """The attention of a forward pass over ids (T,), cut to the S + W tokens that attention can see at once."""
        self.now = Trace()
        self._engine.start(image, memory).forward(ids[None, : self._most])
        return self.now


class _SelfAttention(SelfAttention):
    """`SelfAttention`, line by line, with its weights kept."""

    def __init__(self, plain: SelfAttention, tracer: Tracer, stack: str) -> None:
        self.__dict__.update(plain.__dict__)
        self._tracer, self._stack = tracer, stack

    def __call__(self, x: F32, positions: Positions, state: DecodingState, layer: int) -> F32:
        q, k, v = split_heads(self.qkv_proj(x), 3, self.num_heads)
        k, v = state.append(layer, k, v)
        weights = softmax(positions.scores(q, k))
        getattr(self._tracer.now, self._stack).append(weights[0].mean(axis=0))
        return self.o_proj(join_heads(weights @ v))


class _Fusion(Fusion):
    """`Fusion` with its weights kept."""

    def __init__(self, plain: Fusion, tracer: Tracer) -> None:
        self.__dict__.update(plain.__dict__)
        self._tracer = tracer

    def __call__(self, z: F32, image: ImageTokens) -> F32:
        keys = image.prepared[0]  # type: ignore[index]  # as `Fusion.prepare` left it
        (q,) = split_heads(self.q_proj(rms_norm(z, self.norm, self.eps)), 1, self.num_heads)
        weights = softmax((q * np.float32(q.shape[-1] ** -0.5)) @ keys.swapaxes(-1, -2))
        self._tracer.now.vision = weights[0].mean(axis=0)
        return super().__call__(z, image)


class _Memory(EpisodicMemory):
    """`EpisodicMemory` with its read weights kept; a forward over several segments reads in several calls."""

    def __init__(self, plain: EpisodicMemory, tracer: Tracer) -> None:
        self.__dict__.update(plain.__dict__)
        self._tracer = tracer

    def read(self, q: F32, state: MemoryState) -> F32:
        weights = self.read_weights(q, state)
        now = self._tracer.now
        now.reads = weights[0] if now.reads is None else np.concatenate((now.reads, weights[0]))
        read: F32 = weights @ state.slots
        return read
