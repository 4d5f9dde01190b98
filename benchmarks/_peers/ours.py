"""bitmar itself, through its engine: the whole step, about a picture, with the memory read in every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _models import random_model

from _peers import Ids
from bitmar.core.config import ModelConfig
from bitmar.core.container import Container, open_container
from bitmar.runtime.backend import Backend
from bitmar.runtime.choose import choose_backend
from bitmar.runtime.options import GenerationOptions

GREEDY = GenerationOptions()


def bitmar_engine(container: Container) -> Backend:
    """The engine that `bitmar.load` takes; BITMAR_KERNEL chooses another."""
    return choose_backend(container)


class Bitmar:
    def __init__(self, path: Path) -> None:
        container = open_container(path)
        self.engine, config = bitmar_engine(container), container.config
        self.detail = self.engine.name
        shape = (config.vision_grid**2, config.vision_dim)
        self.image = self.engine.encode_features(np.random.default_rng(0).standard_normal(shape, np.float32))
        self.state = self.engine.start(self.image)

    def prefill(self, ids: Ids) -> int:
        self.state = self.engine.start(self.image)
        self.state.read(ids)
        return self.state.next(None, GREEDY, 0.0)

    def decode(self, token: int, count: int) -> list[int]:
        tokens = []
        for _ in range(count):
            token = self.state.next(token, GREEDY, 0.0)
            tokens.append(token)
        return tokens


def build(config: ModelConfig, kind: str, folder: Path, capacity: int) -> Path:
    return random_model(folder / "random.bitmar", **config.to_dict())


def load(path: Path, config: ModelConfig, kind: str, capacity: int) -> Bitmar:
    return Bitmar(path)
