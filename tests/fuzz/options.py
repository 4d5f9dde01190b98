"""Options of generation, as JSON: each value is refused or can be generated with."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from bitmar.api import load

from . import seeds
from .changes import ODD_VALUES, Raw, twist

_VALUES: dict[str, tuple[Any, ...]] = {
    "max_tokens": (0, 1, 3, -1),
    "temperature": (0, 0.7, 1e-40, 1e-320, 1e38, 1e308),
    "top_k": (0, 1, 3, 19, 20, 21, 2**31, 2**40, 2**64),
    "top_p": (1, 0.9, 1e-9, 1e-320, 0.999999999999),
    "repetition_penalty": (1, 1.3, 0.5, 1e-40, 1e38, 1e308),
    "seed": (0, 1, 2**32, 2**63, 2**64, 10**30, None),
    "beams": (1, 2, 7, 64),
    "length_penalty": (1, 0, -1, 0.5, 1000.0, -1e308, 1e308),
}
_LONGEST = 6  # tokens: a large number of them is slow and no finding


class OptionsTarget:
    max_bytes = 512

    def __init__(self, folder: Path) -> None:
        seeds.write_models(folder)
        self._models = [load(folder / "1.bitmar"), load(folder / "1.bitmar", engine="numpy")]
        self.seeds = [
            b'{"max_tokens": 3}',
            b'{"beams": 3, "length_penalty": 0.5}',
            b'{"temperature": 0.7, "seed": 1}',
        ]

    def one_input(self, data: bytes) -> None:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(values, dict):
            return
        if type(values.get("max_tokens", 64)) is int:
            values["max_tokens"] = min(values.get("max_tokens", 64), _LONGEST)
        values.pop("image", None)
        values.pop("memory", None)
        for model in self._models:
            assert isinstance(model.complete("a", **values), str)

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        try:
            values = json.loads(data)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or rng.random() < 0.05:
            return raw(data)
        name = rng.choice(sorted(_VALUES))
        kind = rng.random()
        if kind < 0.6:
            values[name] = rng.choice(_VALUES[name])
        elif kind < 0.8:
            values[name] = rng.choice(ODD_VALUES)
        elif kind < 0.9:
            values = twist(values, rng)
        else:
            values.pop(rng.choice([*values, name]), None)
        return json.dumps(values).encode()
