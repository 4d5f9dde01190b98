"""What is fuzzed, by name. An input must be taken or end in one of bitmar's own errors, in 5 s and 1 GB."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Protocol

from .changes import Raw
from .container import ContainerTarget
from .memory import MemoryTarget
from .options import OptionsTarget
from .photo import PhotoTarget
from .recipe import RecipeTarget
from .shard import ShardTarget


class Target(Protocol):
    max_bytes: int
    seeds: list[bytes]  # good inputs

    def __init__(self, folder: Path) -> None: ...
    def one_input(self, data: bytes) -> None:
        """Raises BitMarError for an input that is refused; anything else that it raises is a finding."""

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        """Another input like `data`; raw: a change of bytes that knows nothing of their meaning."""


TARGETS: dict[str, type[Target]] = {
    "container": ContainerTarget,
    "photo": PhotoTarget,
    "memory": MemoryTarget,
    "shard": ShardTarget,
    "recipe": RecipeTarget,
    "options": OptionsTarget,
}
