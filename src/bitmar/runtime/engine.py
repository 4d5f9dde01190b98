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
from bitmar.core.ternary import F32
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
    """The backend (see `backend.Backend`) that runs wherever numpy does."""

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

    def encode_features(self, features: F32) -> ImageTokens:
        """Patch features (N_p, D_v), of the tower or a teacher -> what every text about the image needs."""
        tokens, pooled = self.projector(features), mean_features(features)
        if self.concepts is None:
            return replace(self.fusion.prepare(tokens), pooled=pooled)
        scores = self.concepts.scores(pooled)
        image = self.fusion.prepare(np.concatenate((tokens, self.concepts.tokens(scores))))
        return replace(image, pooled=pooled, concepts=scores, evidence=self.concepts.evidence(scores))

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> DecodingState:
        """An empty sequence about `image`, reading `memory` (M_0 when None)."""
        if image is not None and not isinstance(image.prepared, tuple):
            image = replace(image, prepared=self.fusion.prepare(image.tokens).prepared)  # another engine encoded it
        if memory is None and self.memory is not None:
            memory = self.memory.initial_state()
        return DecodingState(self.config, image, memory)

    def forward(self, ids: I64, state: DecodingState, write: Write = Write.NEVER) -> F32:
        """Run token ids (B, T) after those that `state` has seen: hidden states (B, T, d)."""
        x, f, positions, read = self._understand(ids, state, write)
        h = x + f
        if read is not None and self.config.memory_integration == "add":
            h = h + self.memory_proj(read)
        elif read is not None and self.config.memory_integration == "concat":
            h = self.memory_proj(np.concatenate((h, read), axis=-1))
        conditioning = read if self.config.memory_integration == "per_layer" else None
        h = self.decoder(h, positions, state, conditioning)
        state.evict()
        state.written = state.written or [set() for _ in ids]
        for written, row in zip(state.written, ids.tolist(), strict=True):
            written.update(row)
        state.last = [row[-1] for row in ids.tolist()]
        state.hidden = h[:, -1]
        return h

    def stream(self, ids: I64, state: DecodingState) -> Iterator[F32]:
        """`forward` for one sequence (T,) of any length: the hidden states piece by piece, (t, d) each."""
        for start in range(0, len(ids), _CHUNK):
            yield self.forward(ids[None, start : start + _CHUNK], state)[0]

    def read(self, ids: I64, state: DecodingState) -> None:
        """Take in a prompt (T,), T >= 1."""
        for _ in self.stream(ids, state):
            pass

    def next(self, state: DecodingState, token: int | None, options: GenerationOptions, u: float) -> int:
        """Take in `token` if there is one, and choose the next."""
        if token is not None:
            self.forward(np.array([[token]]), state)
        logits = penalize(self._heeded(state), state.written, options.repetition_penalty)
        return choose(logits[0], options, u)

    def candidates(self, state: DecodingState, count: int, penalty: float) -> tuple[I64, F32]:
        """The likeliest continuations of each sequence, best first: ids and log-probabilities (B, count)."""
        scores = penalize(log_softmax(self._heeded(state)), state.written, penalty)
        best = largest(scores, count)
        return best, np.take_along_axis(scores, best, axis=-1)

    def _heeded(self, state: DecodingState) -> F32:
        logits = self.head(self._hidden(state))
        if state.image is None or state.seen < 2:  # a sentence begins as sentences do
            return logits
        return heed(logits, state.written, state.last, state.image.evidence)

    def branch(self, state: DecodingState, sources: I64, tokens: I64) -> None:
        """Replace the sequences by those numbered `sources` (B',), each followed by its token (B',)."""
        state.select(sources)
        self.forward(tokens[:, None], state)

    def logits(self, ids: I64, state: DecodingState) -> F32:
        """Next-token logits (T, V) after each of the ids (T,)."""
        return np.concatenate([self.head(hidden) for hidden in self.stream(ids, state)])

    def score(self, ids: I64, state: DecodingState) -> F32:
        """Natural log-probability (T - 1,) of each of the ids (T,) but the first."""
        scores, targets = [np.zeros(0, np.float32)], ids[1:]
        for hidden in self.stream(ids[:-1], state):  # the T x V logits never exist as a whole
            here, targets = targets[: len(hidden)], targets[len(hidden) :]
            scores.append(log_softmax(self.head(hidden))[np.arange(len(here)), here])
        return np.concatenate(scores)

    def head(self, hidden: F32) -> F32:
        """Hidden states (..., d) -> next-token logits (..., V). Raises FormatError for logits that are not finite."""
        logits = self.lm_head(hidden)
        if not np.isfinite(logits).all():
            raise FormatError(NOT_FINITE)
        return logits

    def _hidden(self, state: DecodingState) -> F32:
        assert state.hidden is not None  # a prompt has been read
        return state.hidden

    def query(self, ids: I64, state: DecodingState) -> F32:
        """The memory's query q (C,) after the last of the ids (T,), nothing written. The model must have a memory."""
        assert self.memory is not None
        for start in range(0, len(ids), _CHUNK):
            self._understand(ids[None, start : start + _CHUNK], state, Write.NEVER)
            state.evict()
        return self.last_query(state)

    def remember(self, ids: I64, state: DecodingState) -> MemoryState | None:
        """Write a whole sequence (T,) into the memory by segments: the new state, None without a memory."""
        for start in range(0, len(ids), _CHUNK):
            last = start + _CHUNK >= len(ids)
            piece = ids[None, start : start + _CHUNK]
            self._understand(piece, state, Write.ALL if last else Write.ENDED)
            state.evict()
        return state.memory

    def last_query(self, state: DecodingState) -> F32:
        """The memory's query q (C,) after the last token that one sequence has read. The model must have a memory."""
        assert state.query is not None
        query: F32 = state.query[0]
        return query

    def write_memory(self, state: DecodingState) -> MemoryState:
        """Write that query into the memory of one sequence (eq. 1): what it reads from its next token on."""
        assert self.memory is not None and state.memory is not None
        state.memory = self.memory.write(self.last_query(state)[None], state.memory)
        return state.memory

    def replace_memory(self, state: DecodingState, memory: MemoryState) -> None:
        """Let the sequence read this memory from its next token on. The model must have a memory."""
        state.memory = memory

    def _understand(self, ids: I64, state: DecodingState, write: Write) -> tuple[F32, F32, Positions, F32 | None]:
        """Up to the decoder: embeddings and fused text (B, T, d), positions, the memory's reads (B, T, C)."""
        x = self.embedding[ids].astype(np.float32) * self.embedding_scale[ids]
        new = state.advance(ids.shape[1])
        positions = Positions(new, state.positions, self.config)
        f = self.encoder(x, positions, state)
        if state.image is not None:
            f = self.fusion(f, state.image)
        read = None
        if self.memory is not None and state.memory is not None:
            read, state.memory, state.carry, state.query = self.memory(f, state.memory, state.carry, write)
        return x, f, positions, read
