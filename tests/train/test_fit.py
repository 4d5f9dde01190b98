"""What a fit stage lets learn, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs bitmar[train]")

from safetensors.torch import load_file  # noqa: E402

from bitmar.core.container import open_container  # noqa: E402
from bitmar.train.recipe import load_recipe  # noqa: E402
from bitmar.train.run import run  # noqa: E402


def test_still_parts_keep_every_bit_and_the_others_learn(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Episodes in slots of their own, some pictures hidden; the tower still, then the memory too."""
    stage = recipe["stages"][0]
    training = {**stage["training"], "steps": 2, "accumulation": 1, "save_words": False}
    use = {**stage, "start": "first", "controller": False, "contrastive": 0.0, "memory": 0.0, "text_share": 0.0,
           "one_shot": True, "repeat": 0.5, "hidden": 0.5, "tower_rate": 0.0, "training": training}  # fmt: skip
    recipe["stages"] = [
        {**stage, "name": "first", "controller": False, "training": training},
        {**use, "name": "use", "memory_rate": 10.0},
        {**use, "name": "rest", "memory_rate": 0.0},
    ]
    run(load_recipe(write(recipe)))
    first, use, rest = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("first", "use", "rest"))

    def moved(after: dict[str, Any]) -> set[str]:
        return {name for name in first if not torch.equal(first[name], after[name])}

    assert not any("vision_tower" in name for name in moved(use) | moved(rest))
    assert {"model.memory.slots", "model.decoder.layers.0.memory_gate"} <= moved(use)
    assert not any("memory" in name for name in moved(rest))
    assert any("decoder" in name for name in moved(rest))


def test_a_tower_stands_aside_and_comes_back(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Photos, then the features of that stage's packed tower, with a text of its own, then photos again."""
    stage = recipe["stages"][0]
    training = {**stage["training"], "steps": 1, "accumulation": 1, "save_words": False}
    plain = {**stage, "controller": False, "training": training}
    text = {"asked": {"path": recipe["data"]["text"]["lines"]["path"], "split": "line", "questions": True}}
    recipe["stages"] = [
        {**plain, "name": "first"},
        {**plain, "name": "seen", "start": "first", "pictures": "features", "tower": "stage:first", "text": text},
        {**plain, "name": "last", "start": "seen", "tower_from": "first", "tower_rate": 0.0},
    ]
    run(load_recipe(write(recipe)))
    first, seen, last = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("first", "seen", "last"))
    towers = {name for name in first if "vision_tower" in name}
    assert towers and not towers & set(seen)
    assert set(last) == set(first) and all(torch.equal(last[name], first[name]) for name in towers)
    card = open_container(tmp_path / "run" / "model.bitmar").card
    assert len([source for source in card["training_data"] if source.endswith("text.txt")]) == 1


def test_a_faster_memory_takes_larger_steps(recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path) -> None:
    stage = recipe["stages"][0]
    training = {**stage["training"], "steps": 1, "accumulation": 1, "save_words": False, "schedule": "constant"}
    plain = {**stage, "start": "first", "controller": False, "training": training}
    recipe["stages"] = [
        {**stage, "name": "first", "controller": False, "training": training},
        {**plain, "name": "slow"},
        {**plain, "name": "fast", "memory_rate": 10.0},
    ]
    run(load_recipe(write(recipe)))
    gate = "model.decoder.layers.0.memory_gate"
    first, slow, fast = (
        load_file(tmp_path / "run" / name / "model.safetensors")[gate] for name in ("first", "slow", "fast")
    )
    assert (fast - first).abs() > 5 * (slow - first).abs() > 0
