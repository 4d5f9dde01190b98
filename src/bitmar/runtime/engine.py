"""The whole network over numpy, oracle of the native engine: two causal stacks, a picture between, a memory beside.

tokens -> embedding -> encoder -> z -> fusion with the picture -> f ----> x + f -> decoder -> head -> logits
                                                                |                    ^ every layer
                                                                +-> running mean q -> memory read r
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import Container
from bitmar.core.errors import NOT_FINITE, FormatError
from bitmar.core.tensors import EMBEDDING, scale_name
from bitmar.core.ternary import F32, U8
from bitmar.runtime.attention import Fusion, Positions, SelfAttention
from bitmar.runtime.cache import I64, DecodingState, ImageTokens
from bitmar.runtime.concepts import ConceptBank
from bitmar.runtime.layers import Weights, activate, log_softmax, rms_norm
from bitmar.runtime.memory import EpisodicMemory, MemoryState, Write
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.sampling import choose, heed, largest, penalize
from bitmar.runtime.tower import Tower, from_pixels, imported_tower, mean_features
from bitmar.runtime.vision import BitVit, VisionProjector

_CHUNK = 512  # tokens a forward; a longer text comes in pieces, so that the scores of attention stay small


class Block:
    """Pre-norm causal block. In the decoder it first adds g_l W_l r, its share of what the memory said."""

    def __init__(self, weights: Weights, name: str, config: ModelConfig, conditioned: bool) -> None:
        self.activation, self.eps = config.activation, config.norm_eps
        self.attn_norm = weights.array(f"{name}.attn_norm.weight")
        self.attn = SelfAttention(weights, f"{name}.attn", config.num_heads)
        self.mlp_norm = weights.array(f"{name}.mlp_norm.weight")
        self.up_proj = weights.linear(f"{name}.mlp.up_proj")
        self.down_proj = weights.linear(f"{name}.mlp.down_proj")
        if conditioned:
            self.memory_proj = weights.linear(f"{name}.memory_proj")
            self.memory_gate = weights.scalar(f"{name}.memory_gate")

    def __call__(self, x: F32, positions: Positions, state: DecodingState, layer: int, read: F32 | None) -> F32:
        """(B, T, d) -> (B, T, d). read: what the memory gave, (B, T, C)."""
        if read is not None:
            x = x + self.memory_gate * self.memory_proj(read)
        x = x + self.attn(rms_norm(x, self.attn_norm, self.eps), positions, state, layer)
        return x + self.down_proj(activate(self.activation, self.up_proj(rms_norm(x, self.mlp_norm, self.eps))))


class Stack:
    """Causal blocks and a final norm; `first_layer` is where its keys begin in the cache."""

    def __init__(self, weights: Weights, name: str, config: ModelConfig, layers: int, first_layer: int) -> None:
        conditioned = name == "decoder" and config.memory_integration == "per_layer"
        self.first_layer, self.eps = first_layer, config.norm_eps
        self.blocks = [Block(weights, f"model.{name}.layers.{i}", config, conditioned) for i in range(layers)]
        self.norm = weights.array(f"model.{name}.norm.weight")

    def __call__(self, x: F32, positions: Positions, state: DecodingState, read: F32 | None = None) -> F32:
        """(B, T, d) -> (B, T, d)."""
        for i, block in enumerate(self.blocks):
            x = block(x, positions, state, self.first_layer + i, read)
        return rms_norm(x, self.norm, self.eps)


class Engine:
    """The backend that runs wherever numpy does. Docstrings are `backend.Backend`'s."""

    name = "numpy"

    def __init__(self, container: Container) -> None:
        config, weights = container.config, Weights(container)
        self.config = config
        self.embedding, self.embedding_scale = (
            container.tensors[EMBEDDING],
            container.tensors[scale_name(EMBEDDING)],
        )
        self.tower: Tower | None = None
        if isinstance(config.vision_tower, VisionTowerConfig):
            self.tower = from_pixels(BitVit(weights, config.vision_tower), container.vision)
        elif config.vision_tower:
            self.tower = imported_tower(config.vision_tower, container.tensors, self.name)
        self.projector = VisionProjector(weights, config)
        self.concepts = ConceptBank(container) if config.concepts else None
        self.encoder = Stack(weights, "encoder", config, config.encoder_layers, 0)
        self.fusion = Fusion(weights, config)
        self.decoder = Stack(weights, "decoder", config, config.decoder_layers, config.encoder_layers)
        self.memory = EpisodicMemory(weights, config) if config.memory_integration != "off" else None
        if config.memory_integration in ("add", "concat"):
            self.memory_proj = weights.linear("model.memory_proj")
        self.lm_head = weights.linear("lm_head")

    def encode_photo(self, photo: U8) -> ImageTokens:
        assert self.tower is not None
        return self.encode_features(self.tower(photo))

    def encode_features(self, features: F32) -> ImageTokens:
        tokens, pooled = self.projector(features), mean_features(features)
        if self.concepts is None:
            return replace(self.fusion.prepare(tokens), pooled=pooled)
        scores = self.concepts.scores(pooled)
        image = self.fusion.prepare(np.concatenate((tokens, self.concepts.tokens(scores))))
        return replace(image, pooled=pooled, concepts=scores, evidence=self.concepts.evidence(scores))

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> State:
        if image is not None and not isinstance(image.prepared, tuple):
            image = replace(image, prepared=self.fusion.prepare(image.tokens).prepared)  # another engine encoded it
        if memory is None and self.memory is not None:
            memory = self.memory.initial_state()
        return State(self, image, memory)

    def head(self, hidden: F32) -> F32:
        """Hidden states (..., d) -> next-token logits (..., V). Raises FormatError for logits that are not finite."""
        logits = self.lm_head(hidden)
        if not np.isfinite(logits).all():
            raise FormatError(NOT_FINITE)
        return logits


class State(DecodingState):
    """The backend's state over numpy. Docstrings are `backend.State`'s."""

    def __init__(self, engine: Engine, image: ImageTokens | None, memory: MemoryState | None) -> None:
        super().__init__(engine.config, image, memory)
        self.engine = engine

    def forward(self, ids: I64, write: Write = Write.NEVER) -> F32:
        engine, integration = self.engine, self.engine.config.memory_integration
        x, f, positions, read = self._understand(ids, write)
        h = x + f
        if read is not None and integration == "add":
            h = h + engine.memory_proj(read)
        elif read is not None and integration == "concat":
            h = engine.memory_proj(np.concatenate((h, read), axis=-1))
        conditioning = read if integration == "per_layer" else None
        h = engine.decoder(h, positions, self, conditioning)
        self.evict()
        self.written = self.written or [set() for _ in ids]
        for written, row in zip(self.written, ids.tolist(), strict=True):
            written.update(row)
        self.last = [row[-1] for row in ids.tolist()]
        self.hidden = h[:, -1]
        return h

    def read(self, ids: I64) -> None:
        for _ in self._pieces(ids):
            pass

    def _pieces(self, ids: I64) -> Iterator[F32]:
        """`forward` for one sequence (T,) of any length: the hidden states piece by piece, (t, d) each."""
        for start in range(0, len(ids), _CHUNK):
            yield self.forward(ids[None, start : start + _CHUNK])[0]

    def next(self, token: int | None, options: GenerationOptions, u: float) -> int:
        if token is not None:
            self.forward(np.array([[token]]))
        logits = penalize(self._heeded(), self.written, options.repetition_penalty)
        return choose(logits[0], options, u)

    def candidates(self, count: int, penalty: float) -> tuple[I64, F32]:
        scores = penalize(log_softmax(self._heeded()), self.written, penalty)
        best = largest(scores, count)
        return best, np.take_along_axis(scores, best, axis=-1)

    def _heeded(self) -> F32:
        assert self.hidden is not None  # a prompt has been read
        logits = self.engine.head(self.hidden)
        if self.image is None or self.seen < 2:  # a sentence begins as sentences do
            return logits
        return heed(logits, self.written, self.last, self.image.evidence)

    def branch(self, sources: I64, tokens: I64) -> None:
        self.select(sources)
        self.forward(tokens[:, None])

    def logits(self, ids: I64) -> F32:
        return np.concatenate([self.engine.head(hidden) for hidden in self._pieces(ids)])

    def score(self, ids: I64) -> F32:
        scores, targets = [np.zeros(0, np.float32)], ids[1:]
        for hidden in self._pieces(ids[:-1]):  # the T x V logits never exist as a whole
            here, targets = targets[: len(hidden)], targets[len(hidden) :]
            scores.append(log_softmax(self.engine.head(hidden))[np.arange(len(here)), here])
        return np.concatenate(scores)

    def query(self, ids: I64) -> F32:
        for start in range(0, len(ids), _CHUNK):
            self._understand(ids[None, start : start + _CHUNK], Write.NEVER)
            self.evict()
        return self.last_query()

    def last_query(self) -> F32:
        assert self.last_queries is not None
        query: F32 = self.last_queries[0]
        return query

    def remember(self, ids: I64) -> MemoryState:
        for start in range(0, len(ids), _CHUNK):
            last = start + _CHUNK >= len(ids)
            self._understand(ids[None, start : start + _CHUNK], Write.ALL if last else Write.ENDED)
            self.evict()
        assert self.memory is not None
        return self.memory

    def write_memory(self) -> MemoryState:
        assert self.engine.memory is not None and self.memory is not None
        self.memory = self.engine.memory.write(self.last_query()[None], self.memory)
        return self.memory

    def replace_memory(self, memory: MemoryState) -> None:
        self.memory = memory

    def _understand(self, ids: I64, write: Write) -> tuple[F32, F32, Positions, F32 | None]:
        """Up to the decoder: embeddings and fused text (B, T, d), positions, the memory's reads (B, T, C)."""
        engine = self.engine
        x = engine.embedding[ids].astype(np.float32) * engine.embedding_scale[ids]
        new = self.advance(ids.shape[1])
        positions = Positions(new, self.positions, engine.config)
        f = engine.encoder(x, positions, self)
        if self.image is not None:
            f = engine.fusion(f, self.image)
        read = None
        if engine.memory is not None and self.memory is not None:
            read, self.memory, self.carry, self.last_queries = engine.memory(f, self.memory, self.carry, write)
        return x, f, positions, read
