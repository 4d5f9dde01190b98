"""Training recipes: YAML text to a checked recipe, with assignments as `--set` makes them."""

from __future__ import annotations

import random
from pathlib import Path

import yaml

from bitmar.train.recipe import load_recipe

from .changes import Raw, twist

_RECIPES = Path(__file__).resolve().parents[2] / "recipes"
_TEXTS = (
    "010",
    "1e3",
    "yes",
    "~",
    "[" * 2000,
    "{a: 1, a: 2}",
    "&a [*a]",
    "!!python/name:os.system",
    "0x1f",
    "1_0",
    ".inf",
    "é",
    "? x",
    "|",
)
_ASSIGNMENTS = (b"stages.0.training.steps=3", b"model.hidden_size=8", b"a.b.c=[1]", b"tower=~")
_SET = b"\n# --set "  # what stands after this in an input is an assignment


class RecipeTarget:
    max_bytes = 1 << 15

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input.yaml"
        recipes = [path.read_bytes() for path in sorted(_RECIPES.glob("*.yaml"))]
        self.seeds = [*recipes, min(recipes, key=len) + _SET + b"stages.0.training.steps=3"]

    def one_input(self, data: bytes) -> None:
        text, *assignments = data.split(_SET)
        self._path.write_bytes(text)
        load_recipe(self._path, [assignment.decode("utf-8", "replace") for assignment in assignments])

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        if rng.random() < 0.3:
            return raw(data)
        text, *assignments = data.split(_SET)
        if rng.random() < 0.3:
            lines = text.split(b"\n")
            at = rng.randrange(len(lines))
            lines[at] = lines[at].partition(b":")[0] + b": " + rng.choice(_TEXTS).encode()
            return _SET.join((b"\n".join(lines), *assignments))
        if rng.random() < 0.3:
            return data + _SET + raw(rng.choice(_ASSIGNMENTS))
        try:
            value = yaml.safe_load(text)
            return _SET.join(
                (yaml.safe_dump(twist(value, rng), allow_unicode=True).encode("utf-8", "replace"), *assignments)
            )
        except (yaml.YAMLError, ValueError, TypeError, RecursionError):
            return raw(data)
