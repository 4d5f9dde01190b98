"""A session's `.mem` file and the JSON lines of its export: read whole, recalled from, written to."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from bitmar.api import load
from bitmar.core.errors import MemoryFileError
from bitmar.session.session import Session

from . import seeds
from .changes import Raw, twist

_PHOTO = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


class MemoryTarget:
    max_bytes = 1 << 16

    def __init__(self, folder: Path) -> None:
        seeds.write_models(folder)
        self._model = load(folder / "0.bitmar")
        self._folder = folder
        self.seeds = self._written()

    def _written(self) -> list[bytes]:
        empty, full, lines = (self._folder / name for name in ("one.mem", "full.mem", "export.jsonl"))
        with self._model.memory(empty) as session:
            session.remember("ab")
        with self._model.memory(full) as session:
            for text in ("a", "ba", "cab", "abc", "bca", "cba"):  # more than it has slots
                session.remember(text, _PHOTO)
            session.forget(session.inspect()[0].slot)
            session.export(lines)
        return [path.read_bytes() for path in (empty, full, lines)]

    def one_input(self, data: bytes) -> None:
        path = self._folder / "input.mem"
        path.unlink(missing_ok=True)
        if data[:1] == b"{":
            lines = self._folder / "input.jsonl"
            lines.write_bytes(data)
            with self._model.memory(path) as session:
                session.import_(lines)
                session.inspect()
            return
        path.write_bytes(data)
        try:
            self._use(path)
        except MemoryFileError:
            with Session(self._model, path, salvage=True) as session:
                session.export(self._folder / "rest.jsonl")

    def _use(self, path: Path) -> None:
        with self._model.memory(path) as session:
            session.stats()
            episodes = session.inspect()
            session.recall(text="ab", k=2)
            session.remember("c", _PHOTO)
            session.forget(*(episode.slot for episode in episodes[:1]))
            session.inspect()

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        if data[:1] != b"{":
            return raw(data)
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        try:
            lines[at] = json.dumps(twist(json.loads(lines[at]), rng)).encode()
        except (ValueError, RecursionError):
            return raw(data)
        return b"\n".join(lines)
