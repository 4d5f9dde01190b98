"""The state of generation between tokens; its size is constant however long the stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitmar.core.config import ModelConfig
from bitmar.core.ternary import F32
from bitmar.runtime.memory import MemoryState, QueryCarry

I64 = npt.NDArray[np.int64]


Evidence = tuple[I64, F32, I64]
NO_EVIDENCE: Evidence = (np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """An image as texts need it: vision tokens (N, d), and what the engine that encoded them has prepared.

    pooled: the tower's features of the whole photo (D_v,), the mean over its patches, where they are known.
    concepts: the score of every concept of the model's bank (K,), where it has one. evidence: the token ids that the
    best of them speak for, by how much each logit rises in decoding, and the token that it must follow, (n,) each; -1
    for the first of a word, which counts until it is written.
    """

    tokens: F32
    prepared: object
    pooled: F32 | None = None
    concepts: F32 | None = None
    evidence: Evidence = NO_EVIDENCE

    def __reduce__(self) -> tuple[type[ImageTokens], tuple[F32, None, F32 | None, F32 | None, Evidence]]:
        """Copied and pickled by value: an engine prepares the tokens of another one anew."""
        return ImageTokens, (self.tokens, None, self.pooled, self.concepts, self.evidence)


class DecodingState:
    """The keys and values of S + W tokens in every layer, the image, the memory and the running query.

    Keys are stored unrotated, because a sink's place relative to the query moves with the stream. All
    sequences of the batch (the beams) stand at one position; they share the image, and a memory nobody wrote.
    """

    def __init__(self, config: ModelConfig, image: ImageTokens | None, memory: MemoryState | None) -> None:
        self.sinks, self.window = config.attention_sinks, config.attention_window
        self.image, self.memory = image, memory
        self.carry: QueryCarry | None = None
        self.last_queries: F32 | None = None  # of the memory, after each sequence's last token, (B, C)
        self.seen = 0  # tokens so far, evicted ones included
        self.last: list[int] = []  # by each sequence: the last of them
        self.written: list[set[int]] = []  # by each sequence: the tokens it has read
        self.hidden: F32 | None = None  # after each sequence's last token, (B, d)
        self.positions: I64 = np.zeros(0, np.int64)  # of the cached tokens
        layers = config.encoder_layers + config.decoder_layers
        self._keys: list[F32 | None] = [None] * layers
        self._values: list[F32 | None] = [None] * layers

    def advance(self, tokens: int) -> I64:
        """Begin a forward of `tokens` new tokens; returns their positions (T,)."""
        new = np.arange(self.seen, self.seen + tokens)
        self.seen += tokens
        self.positions = np.concatenate((self.positions, new))
        return new

    def append(self, layer: int, keys: F32, values: F32) -> tuple[F32, F32]:
        """Add (B, h, T, d_h) to a layer; returns all that this forward's queries may see."""
        old_keys, old_values = self._keys[layer], self._values[layer]
        if old_keys is not None and old_values is not None:
            keys = np.concatenate((old_keys, keys), axis=2)
            values = np.concatenate((old_values, values), axis=2)
        self._keys[layer], self._values[layer] = keys, values
        return keys, values

    def evict(self) -> None:
        """End a forward: keep the sinks and the W newest tokens."""
        excess = len(self.positions) - (self.sinks + self.window)
        if excess <= 0:
            return
        gone = slice(self.sinks, self.sinks + excess)
        self.positions = np.delete(self.positions, gone)
        for stored in (self._keys, self._values):
            for layer, x in enumerate(stored):
                stored[layer] = None if x is None else np.delete(x, gone, axis=2)

    def select(self, sequences: I64) -> None:
        """Rearrange or repeat the sequences of the batch, after a step of beam search."""
        for stored in (self._keys, self._values):
            for layer, x in enumerate(stored):
                stored[layer] = None if x is None else x[sequences]
        if self.written:
            self.written = [set(self.written[i]) for i in sequences.tolist()]
            self.last = [self.last[i] for i in sequences.tolist()]
        if self.carry is not None:
            self.carry = self.carry.select(sequences)
        if self.memory is not None and len(self.memory.slots) > 1:
            self.memory = self.memory.select(sequences)
