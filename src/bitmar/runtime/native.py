"""The C++ engine as a backend: the model of `engine.Engine`, two orders faster. Docstrings are the backend's."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitmar import _native
from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import Container
from bitmar.core.errors import ConfigError
from bitmar.core.ternary import F32, U8
from bitmar.runtime.backend import engine_hint
from bitmar.runtime.cache import I64, ImageTokens
from bitmar.runtime.concepts import ConceptBank
from bitmar.runtime.memory import MemoryState
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.tower import Tower, imported_tower


def why_not(config: ModelConfig) -> str | None:
    """The setting that the native engine cannot run, or None."""
    return _native.unsupported(_model_config(config))


def _model_config(config: ModelConfig) -> dict[str, Any]:
    """The configuration without a pretrained tower, which is an object of its own."""
    values = config.to_dict()
    return values if isinstance(config.vision_tower, VisionTowerConfig) else values | {"vision_tower": None}


def kernel_paths() -> list[tuple[str, str]]:
    """The kernel paths, the fastest first, each with why it cannot run here, or ""."""
    return _native.paths()


class NativeState(_native.State):
    """A `backend.State`: what it has in C++, and what takes or gives objects of Python."""

    def __init__(
        self, model: _native.Model, image: _native.Image | None, memory: MemoryState | None, kv_int16: bool
    ) -> None:
        self._model = model
        super().__init__(model, image, None if memory is None else _packed(model, memory), kv_int16)

    def next(self, token: int | None, options: GenerationOptions, u: float) -> int:
        top_k = min(options.top_k, 1 << 30)
        return self.choose(token, options.temperature, top_k, options.top_p, options.repetition_penalty, u)

    def remember(self, ids: I64) -> MemoryState:
        self.write_segments(ids)
        return self._memory()

    def write_memory(self) -> MemoryState:
        self.write_query()
        return self._memory()

    def replace_memory(self, memory: MemoryState) -> None:
        self.exchange_memory(_packed(self._model, memory))

    def _memory(self) -> MemoryState:
        slots, usage = self.memory().arrays()
        return MemoryState(slots[None], usage[None])


def _packed(model: _native.Model, memory: MemoryState) -> _native.MemoryState:
    slots, usage = (np.asarray(x[0], np.float32) for x in memory)
    return model.memory(slots, usage)


class NativeEngine:
    """The backend over the C++ engine.

    kernels: a path's name, "" for the fastest. kv_int16: keep keys and values in int16 instead of int8, which doubles
    what a long context reads; benchmarks/parity.py measures what either changes. Raises ConfigError for a path that
    cannot run here.
    """

    def __init__(self, container: Container, kernels: str = "", *, kv_int16: bool = False) -> None:
        runnable = [name for name, reason in kernel_paths() if not reason]
        if kernels and kernels not in runnable:
            reasons = dict(kernel_paths())
            detail = f"{kernels}: {reasons[kernels]}" if kernels in reasons else engine_hint(kernels, runnable)
            raise ConfigError(detail)
        self.config, self.kv_int16 = container.config, kv_int16
        self.name, tower = kernels or runnable[0], self.config.vision_tower
        self.tower: Tower | None = None
        if tower and not isinstance(tower, VisionTowerConfig):
            self.tower = imported_tower(tower, container.tensors, self.name)
            container.release_pages()  # before the rest is read: the most memory is held while a tower is repacked
        self._sees = isinstance(self.tower, _native.ConvTower)  # from pixels to the image in C++
        self.model = _native.Model(
            _model_config(self.config),
            dict(container.tensors),
            self.name,
            self.tower if isinstance(self.tower, _native.ConvTower) else None,
            container.vision["mean"],
            container.vision["std"],
        )
        if isinstance(tower, VisionTowerConfig):
            self.tower, self._sees = self.model.tower, True
        self.concepts = ConceptBank(container) if self.config.concepts else None
        container.release_pages()  # only rows of the embedding and the concepts' keys are still read from there

    def encode_photo(self, photo: U8) -> ImageTokens:
        if self._sees:
            return ImageTokens(*self.model.see(photo))
        assert self.tower is not None
        return self.encode_features(self.tower(photo))

    def encode_features(self, features: F32) -> ImageTokens:
        return ImageTokens(*self.model.encode(features))

    def start(self, image: ImageTokens | None = None, memory: MemoryState | None = None) -> NativeState:
        seen = None if image is None else image.prepared
        if image is not None and not isinstance(seen, _native.Image):  # another engine encoded it
            seen = self.model.image(image.tokens, *image.evidence)
        assert seen is None or isinstance(seen, _native.Image)
        return NativeState(self.model, seen, memory, self.kv_int16)

    def head(self, hidden: F32) -> F32:
        return self.model.head(hidden)
