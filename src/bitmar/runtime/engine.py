"""The whole network over numpy: two causal stacks, a picture between them, an episodic memory beside.

tokens -> embedding -> encoder -> z -> fusion with the picture -> f ----> x + f -> decoder -> head -> logits
                                                                |                    ^ every layer
                                                                +-> running mean q -> memory read r
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container
from bitmar.core.tensors import EMBEDDING, scale_name
from bitmar.core.ternary import F32
from bitmar.runtime.attention import Fusion, Positions, SelfAttention
from bitmar.runtime.cache import DecodingState, ImageTokens
from bitmar.runtime.layers import Weights, activate, rms_norm
from bitmar.runtime.memory import EpisodicMemory, MemoryState, Write
from bitmar.runtime.vision import BitVit, VisionProjector

Ids = npt.NDArray[np.int64]

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
    """A model ready to run. Stateless: all that changes is in the `DecodingState` that `start` returns."""

    def __init__(self, container: Container) -> None:
        config, weights = container.config, Weights(container)
        self.config = config
        self.embedding, self.embedding_scale = (
            container.tensors[EMBEDDING],
            container.tensors[scale_name(EMBEDDING)],
        )
        self.tower = BitVit(weights, config.vision_tower) if config.vision_tower else None
        self.projector = VisionProjector(weights, config)
        self.encoder = Stack(weights, "encoder", config, config.encoder_layers, 0)
        self.fusion = Fusion(weights, config)
        self.decoder = Stack(weights, "decoder", config, config.decoder_layers, config.encoder_layers)
        self.memory = EpisodicMemory(weights, config) if config.memory_integration != "off" else None
        if config.memory_integration in ("add", "concat"):
            self.memory_proj = weights.linear("model.memory_proj")
        self.head = weights.linear("lm_head")

    def encode_features(self, features: F32) -> ImageTokens:
        """Patch features (N_p, D_v), of the tower or a teacher -> what every text about the image needs."""
        return self.fusion.prepare(self.projector(features))

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> DecodingState:
        """An empty sequence about `image`, reading `memory` (M_0 when None)."""
        if memory is None and self.memory is not None:
            memory = self.memory.initial_state()
        return DecodingState(self.config, image, memory)

    def forward(self, ids: Ids, state: DecodingState, write: Write = Write.NEVER) -> F32:
        """Run token ids (B, T) behind those that `state` has seen: hidden states (B, T, d)."""
        x, f, positions, read = self._understand(ids, state, write)
        h = x + f
        if read is not None and self.config.memory_integration == "add":
            h = h + self.memory_proj(read)
        elif read is not None and self.config.memory_integration == "concat":
            h = self.memory_proj(np.concatenate((h, read), axis=-1))
        conditioning = read if self.config.memory_integration == "per_layer" else None
        h = self.decoder(h, positions, state, conditioning)
        state.evict()
        return h

    def stream(self, ids: Ids, state: DecodingState) -> Iterator[F32]:
        """`forward` for one sequence (T,) of any length: the hidden states piece by piece, (t, d) each."""
        for start in range(0, len(ids), _CHUNK):
            yield self.forward(ids[None, start : start + _CHUNK], state)[0]

    def remember(self, ids: Ids, state: DecodingState) -> MemoryState | None:
        """Write a whole sequence (T,) into the memory by segments: the new state, None without a memory."""
        for start in range(0, len(ids), _CHUNK):
            last = start + _CHUNK >= len(ids)
            piece = ids[None, start : start + _CHUNK]
            self._understand(piece, state, Write.ALL if last else Write.ENDED)
            state.evict()
        return state.memory

    def _understand(self, ids: Ids, state: DecodingState, write: Write) -> tuple[F32, F32, Positions, F32 | None]:
        """Up to the decoder: embeddings and fused text (B, T, d), positions, the memory's reads (B, T, C)."""
        x = self.embedding[ids].astype(np.float32) * self.embedding_scale[ids]
        new = state.advance(ids.shape[1])
        positions = Positions(new, state.positions, self.config)
        f = self.encoder(x, positions, state)
        if state.image is not None:
            f = self.fusion(f, state.image)
        read = None
        if self.memory is not None and state.memory is not None:
            read, state.memory, state.carry = self.memory(f, state.memory, state.carry, write)
        return x, f, positions, read
