"""A stage trains what its recipe says, in the shares that it says, and its log tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs bitmar[train]")

from bitmar.train.recipe import Fit, load_recipe  # noqa: E402
from bitmar.train.run import run  # noqa: E402
from bitmar.train.runs import read_log  # noqa: E402
from bitmar.train.sources import batches  # noqa: E402
from bitmar.train.workspace import Workspace  # noqa: E402

ONCE = ["stages.0.training.accumulation=1", "stages.0.training.log_every=1", "stages.0.training.save_words=false"]


def test_hidden_pictures_leave_the_contrastive_loss_to_the_others(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe["stages"][0] |= {"hidden": 0.5, "text_share": 0.0, "controller": True}
    run(load_recipe(write(recipe), [*ONCE, "stages.0.training.steps=3"]))
    lines = [line for line in read_log(tmp_path / "run" / "all") if "lm" in line]
    assert all(line["contrastive"] > 0 and "alignment" in line for line in lines)
    assert [line["contrastive_batches"] for line in lines] == [1, 1, 1]


def test_a_term_that_no_batch_can_compute_is_counted(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe["stages"][0] |= {"pictures": "none", "controller": False}
    run(load_recipe(write(recipe), [*ONCE, "stages.0.training.steps=1", "stages.0.memory=0"]))
    line = next(line for line in read_log(tmp_path / "run" / "all") if "lm" in line)
    assert line["contrastive_batches"] == 0
    assert "memory_batches" not in line  # no weight, no promise
    assert line["flops_per_step"] > 0


def shares(recipe: dict[str, Any], write: Callable[..., Path], *settings: str) -> dict[str, float]:
    """What part of the loss each kind of batch has, if all tokens are equally hard."""
    loaded = load_recipe(write(recipe), ["stages.0.training.steps=200", "stages.0.text_share=0.5", *settings])
    stage = loaded.stages[0]
    assert isinstance(stage, Fit)
    mixture, _ = batches(stage, Workspace(loaded))
    weight = dict.fromkeys(mixture.names, 0.0)
    for k in range(len(mixture)):
        weight[mixture.which(k)[0]] += float(mixture.loss_weights.get(mixture.which(k)[0], 1.0))
    assert mixture[0].get("loss_weight", np.float32(1)).dtype == np.float32
    return {name: w / sum(weight.values()) for name, w in weight.items()}


def test_the_share_of_text_is_its_share_of_the_loss(recipe: dict[str, Any], write: Callable[..., Path]) -> None:
    found = shares(recipe, write, "stages.0.text_rows=8", "stages.0.caption_rows=4", "stages.0.episodes=2")
    assert found["text"] == pytest.approx(0.5, abs=0.02)
    found = shares(recipe, write, "stages.0.text_rows=8", "stages.0.caption_rows=4", "stages.0.weigh=batches")
    assert found["text"] < 0.4


def test_captions_are_held_out_where_no_validation_is_named(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe["data"] |= {"validation": [], "heldout": 0.3}
    loaded = load_recipe(write(recipe), ONCE)
    mixture, checks = batches(loaded.stages[0], Workspace(loaded))
    trained, held = mixture.sources["photos"], checks["captions"]
    assert set(trained.images).isdisjoint(held.images)
    assert sorted(trained.images + held.images) == list(range(24))
    assert trained.without == len(held.images) > 0


def test_attention_maps_are_kept_at_every_evaluation(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    run(load_recipe(write(recipe), [*ONCE, "stages.0.training.steps=2", "stages.0.evaluate_every=1"]))
    files = sorted((tmp_path / "run" / "all").glob("attention-*.npz"))
    assert [file.name for file in files] == ["attention-1.npz", "attention-2.npz"]
    with np.load(files[0]) as maps:
        length = len(maps["captions_tokens"])
        assert maps["captions_layers"].shape == (3, length, length)
        np.testing.assert_allclose(maps["captions_layers"].astype(np.float32).sum(-1), 1, atol=1e-2)
        assert maps["captions_image"].shape[:2] == (2, length)
    assert files[0].stat().st_size < 200_000
