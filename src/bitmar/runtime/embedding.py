"""Texts as points of the space that the contrastive loss has trained (paper section 3.4.2, L_cm), beside pictures.

A caption is the mean of the encoder's states over <bos> caption <eos>, before any picture is fused into them; a
picture is the mean of its vision tokens. Only the encoder is needed, a few layers over a short text, so numpy runs it
for both engines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container
from bitmar.core.tensors import EMBEDDING, scale_name
from bitmar.core.ternary import F32
from bitmar.runtime.attention import Positions
from bitmar.runtime.cache import I64, DecodingState, ImageTokens
from bitmar.runtime.engine import Stack
from bitmar.runtime.layers import Weights

_ROWS = 64  # texts of one forward
_CHUNK = 512  # tokens of one forward; attention's T x T stays small


class TextEncoder:
    """The encoder of a container, unpacked; what `bitmar.runtime.engine.Engine` has in it as well."""

    def __init__(self, container: Container) -> None:
        self.config: ModelConfig = container.config
        self._codes, self._scale = container.tensors[EMBEDDING], container.tensors[scale_name(EMBEDDING)]
        self._stack = Stack(Weights(container), "encoder", self.config, self.config.encoder_layers, 0)

    def pooled(self, rows: Sequence[I64]) -> F32:
        """Mean encoder state (n, d) of each row of token ids, T >= 1. Rows of one length share a forward, so nothing
        is padded and a row's result does not depend on the others."""
        pooled = np.zeros((len(rows), self.config.hidden_size), np.float32)
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            by_length[len(row)].append(i)
        for places in by_length.values():
            for start in range(0, len(places), _ROWS):
                some = places[start : start + _ROWS]
                pooled[some] = self._mean(np.stack([rows[i] for i in some]))
        return pooled

    def _mean(self, ids: I64) -> F32:
        """(B, T) -> (B, d)."""
        state = DecodingState(self.config, None, None)
        total = np.zeros((len(ids), self.config.hidden_size), np.float64)
        for start in range(0, ids.shape[1], _CHUNK):
            piece = ids[:, start : start + _CHUNK]
            x = self._codes[piece].astype(np.float32) * self._scale[piece]
            new = state.advance(piece.shape[1])
            total += self._stack(x, Positions(new, state.positions, self.config), state).sum(axis=1, dtype=np.float64)
            state.evict()
        mean: F32 = (total / ids.shape[1]).astype(np.float32)
        return mean


def pooled_image(image: ImageTokens) -> F32:
    """Mean vision token (d,)."""
    mean: F32 = image.tokens.mean(axis=0)
    return mean


def unit(x: F32) -> F32:
    """Vectors (..., d) of length 1: their products are cosines. A zero vector stays zero."""
    normed: F32 = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))
    return normed
