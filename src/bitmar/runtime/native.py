"""The native engine as a backend: one call per token, the same model as `engine.Engine`, two orders faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from bitmar import _native
from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import Container
from bitmar.core.errors import ConfigError
from bitmar.core.ternary import F32
from bitmar.runtime.backend import engine_hint
from bitmar.runtime.cache import I64, NO_EVIDENCE, ImageTokens
from bitmar.runtime.concepts import ConceptBank
from bitmar.runtime.memory import MemoryState, Write
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.tower import Tower, from_pixels, imported_tower, mean_features

_WRITES = {Write.NEVER: 0, Write.ENDED: 1, Write.ALL: 2}


def why_not(config: ModelConfig) -> str | None:
    """What of a configuration the native engine cannot run, or None."""
    return _native.unsupported(_model_config(config))


def _model_config(config: ModelConfig) -> dict[str, Any]:
    """The configuration without a pretrained tower, which is an object of its own."""
    values = config.to_dict()
    return values if isinstance(config.vision_tower, VisionTowerConfig) else values | {"vision_tower": None}


def kernel_paths() -> list[tuple[str, str]]:
    """The kernel paths, the fastest first, each with why it cannot run here, or ""."""
    return _native.paths()


class NativeEngine:
    """The backend (see `backend.Backend`) over the C++ engine.

    kernels: a path's name, "" for the fastest. wide: keep keys and values in int16 instead of int8, which doubles what
    a long context reads; benchmarks/parity.py measures what either changes. Raises ConfigError for a path that cannot
    run here.
    """

    def __init__(self, container: Container, kernels: str = "", *, wide: bool = False) -> None:
        runnable = [name for name, reason in kernel_paths() if not reason]
        if kernels and kernels not in runnable:
            reasons = dict(kernel_paths())
            detail = f"{kernels}: {reasons[kernels]}" if kernels in reasons else engine_hint(kernels, runnable)
            raise ConfigError(detail)
        self.config, self.wide = container.config, wide
        self.name, tower = kernels or runnable[0], self.config.vision_tower
        self.tower: Tower | None = None
        if tower and not isinstance(tower, VisionTowerConfig):
            self.tower = imported_tower(tower, container.tensors, self.name)
            container.release_pages()  # before the rest is read: the most memory is held while a tower is repacked
        self.model = _native.Model(_model_config(container.config), dict(container.tensors), self.name)
        self.concepts = ConceptBank(container, _native.rows_dot) if self.config.concepts else None
        if isinstance(tower, VisionTowerConfig):
            self.tower = from_pixels(self.model.tower, container.vision)
        container.release_pages()  # only rows of the embedding are still read from there

    def encode_features(self, features: F32) -> ImageTokens:
        """Patch features (N_p, D_v), of the tower or a teacher -> what every text about the image needs."""
        tokens, pooled = self.model.project(np.ascontiguousarray(features)), mean_features(features)
        if self.concepts is None:
            return ImageTokens(tokens, self.model.image(tokens, *NO_EVIDENCE), pooled)
        scores = self.concepts.scores(pooled)
        tokens, evidence = np.concatenate((tokens, self.concepts.tokens(scores))), self.concepts.evidence(scores)
        return ImageTokens(tokens, self.model.image(tokens, *evidence), pooled, scores, evidence)

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> _native.State:
        """The state of an empty sequence about `image`, reading `memory` (M_0 when None)."""
        return self.model.start(self._image(image), None if memory is None else self._memory(memory), not self.wide)

    def _image(self, image: ImageTokens | None) -> _native.Image | None:
        if image is None:
            return None
        if isinstance(image.prepared, _native.Image):
            return image.prepared
        return self.model.image(np.ascontiguousarray(image.tokens), *image.evidence)  # another engine encoded it

    def _memory(self, memory: MemoryState) -> _native.MemoryState:
        slots, usage = (np.ascontiguousarray(x[0], np.float32) for x in memory)
        return self.model.memory(slots, usage)

    def read(self, ids: I64, state: _native.State) -> None:
        """Take in a prompt (T,), T >= 1."""
        state.forward(np.ascontiguousarray(ids))

    def next(self, state: _native.State, token: int | None, options: GenerationOptions, u: float) -> int:
        """Take in `token` if there is one, and choose the next."""
        top_k = min(options.top_k, self.config.vocab_size)
        return state.next(token, options.temperature, top_k, options.top_p, options.repetition_penalty, u)

    def candidates(self, state: _native.State, count: int, penalty: float) -> tuple[I64, F32]:
        """The likeliest continuations of each sequence, best first: ids and log-probabilities (B, count)."""
        return state.candidates(count, penalty)

    def branch(self, state: _native.State, sources: I64, tokens: I64) -> None:
        """Replace the sequences by those numbered `sources` (B',), each followed by its token (B',)."""
        state.select(np.ascontiguousarray(sources, np.int64))
        state.forward(np.ascontiguousarray(tokens[:, None], np.int64))

    def forward(self, ids: I64, state: _native.State, write: Write = Write.NEVER) -> F32:
        """Run token ids (B, T) after those that `state` has seen: hidden states (B, T, d)."""
        return state.forward(np.ascontiguousarray(ids), _WRITES[write])

    def head(self, hidden: F32) -> F32:
        """Hidden states (T, d) -> logits (T, V)."""
        return self.model.head(np.ascontiguousarray(hidden))

    def logits(self, ids: I64, state: _native.State) -> F32:
        """Next-token logits (T, V) after each of the ids (T,)."""
        return self.head(self.forward(ids[None], state)[0])

    def score(self, ids: I64, state: _native.State) -> F32:
        """Natural log-probability (T - 1,) of each of the ids (T,) but the first."""
        return state.score(np.ascontiguousarray(ids))

    def query(self, ids: I64, state: _native.State) -> F32:
        """The memory's query q (C,) after the last of the ids (T,), nothing written. The model must have a memory."""
        state.forward(np.ascontiguousarray(ids), _WRITES[Write.NEVER], False)
        return state.query()

    def remember(self, ids: I64, state: _native.State) -> MemoryState | None:
        """Write a whole sequence (T,) into the memory by segments: the new state, None without a memory."""
        state.forward(np.ascontiguousarray(ids), _WRITES[Write.ALL], False)
        return None if self.config.memory_integration == "off" else self._arrays(state)

    def last_query(self, state: _native.State) -> F32:
        """The memory's query q (C,) after the last token that one sequence has read. The model must have a memory."""
        return state.query()

    def write_memory(self, state: _native.State) -> MemoryState:
        """Write that query into the memory of one sequence (eq. 1): what it reads from its next token on."""
        state.write_memory()
        return self._arrays(state)

    def replace_memory(self, state: _native.State, memory: MemoryState) -> None:
        """Let the sequence read this memory from its next token on. The model must have a memory."""
        state.replace_memory(self._memory(memory))

    def _arrays(self, state: _native.State) -> MemoryState:
        slots, usage = self.model.memory_arrays(state.memory())
        return MemoryState(slots[None], usage[None])

    def stream(self, ids: I64, state: _native.State) -> Iterator[F32]:
        """`forward` for one sequence (T,): the hidden states piece by piece, (t, d) each."""
        yield self.forward(ids[None], state)[0]
