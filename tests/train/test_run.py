"""From a recipe to a caption, through the code that `bitmar train` runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import bitmar
from bitmar.core.container import open_container
from bitmar.core.errors import ConfigError
from bitmar.export import export_checkpoint
from bitmar.train import distill
from bitmar.train.recipe import load_recipe
from bitmar.train.run import run
from bitmar.train.runs import read_log

SMOKE = Path(__file__).resolve().parents[2] / "recipes" / "smoke.yaml"


def test_the_smoke_recipe_ends_in_a_model_that_captions(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        SMOKE,
        [
            f"output={tmp_path / 'run'}",
            f"cache={tmp_path / 'data'}",
            f"data.captions={world / 'train.tar'}",
            f"data.validation={world / 'val.tar'}",
            f"data.text.captions.path={world / 'text.txt'}",
            "data.heldout=0.2",
            "stages.all.caption_rows=8",
            "stages.all.text_rows=2",
            "stages.all.training.steps=3",
            "stages.all.training.log_every=1",
            "stages.all.training.threads=1",
        ],
    )
    output = run(recipe)
    model = bitmar.load(output)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert isinstance(model.caption(photo), str)
    assert "research use only" in model.card["licence"] and str(SMOKE) in model.card["command"]
    named = {Path(source).name for source in model.card["training_data"]}
    assert {"train.tar", "text.txt"} <= named
    *lines, _ = read_log(output / "all")
    assert {name for line in lines for name in line} >= {
        "loss", "lm", "contrastive", "memory", "alignment", "read_entropy", "slot_entropy", "live_slots", "gate_0",
        "loss_weight", "contrastive_batches", "memory_batches",
        "zero_fraction", "words", "flops_per_step", "tokens_per_second", "learning_rate", "grad_norm",
        "text_perplexity", "captions_loss", "captions_memory_gain", "captions_alignment",
    }  # fmt: skip


def test_the_parts_of_the_loss_add_up(recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path) -> None:
    settings = ["stages.0.training.accumulation=1", "stages.0.training.steps=4", "stages.0.contrastive=0.7"]
    run(load_recipe(write(recipe), [*settings, "stages.0.memory=0.3"]))
    lines = [line for line in read_log(tmp_path / "run" / "all") if "lm" in line]
    assert len(lines) == 4
    for line in lines:
        parts = line["lm"] + 0.7 * line.get("contrastive", 0) + 0.3 * line["memory"]
        assert line["loss"] == pytest.approx(parts * line["loss_weight"], abs=2e-3)


def test_recomputing_activations_changes_nothing(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(recipe)
    weights = []
    for wanted in ("false", "true"):
        output = tmp_path / wanted
        switch = f"stages.0.training.gradient_checkpointing={wanted}"
        run(load_recipe(path, [f"output={output}", "stages.0.training.steps=2", switch]))
        weights.append(load_file(output / "all" / "model.safetensors"))
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())


def test_bfloat16_trains_on_a_processor_too(recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path) -> None:
    path, losses = write(recipe), {}
    for precision in ("fp32", "bf16"):
        output = tmp_path / precision
        settings = ["stages.0.training.steps=3", f"stages.0.training.precision={precision}"]
        run(load_recipe(path, [f"output={output}", *settings]))
        kinds = {str(t.dtype) for t in load_file(output / "all" / "model.safetensors").values()}
        assert kinds == {"torch.float32", "torch.int64"}
        losses[precision] = [line["loss"] for line in read_log(output / "all") if "lm" in line]
    assert np.isfinite(losses["bf16"]).all() and len(losses["bf16"]) == 3
    assert 0 < abs(losses["bf16"][0] - losses["fp32"][0]) < 0.1, losses  # rounded, and no more than that


def test_stages_follow_each_other(
    recipe: dict[str, Any],
    write: Callable[..., Path],
    child: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distill, "LiteRTTorch", child.Teacher)
    stage = recipe["stages"][0]
    stage["training"] |= {"steps": 1, "log_every": 1, "workers": 1}
    tower = {"name": "tower", "kind": "distill", "teacher": "litert:none", "rows": 4, "training": stage["training"]}
    first = {**stage, "name": "language", "pictures": "none", "controller": False}
    last = {**stage, "name": "joint", "start": "language", "tower_from": "tower"}
    last["training"] = {**stage["training"], "learning_rate": 1e-30}  # so that what it started from can be read off
    recipe["stages"] = [tower, first, last]
    path = write(recipe)
    with pytest.raises(ConfigError, match="joint starts from language, which is not finished"):
        run(load_recipe(path), only="joint")
    with pytest.raises(ConfigError, match=r"no stage 'jiont' \(did you mean 'joint'\?\)"):
        run(load_recipe(path), only="jiont")
    run(load_recipe(path))
    found = {name: load_file(tmp_path / "run" / name / "model.safetensors") for name in ("tower", "language", "joint")}
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.memory.slots"):
        assert found["joint"][name].equal(found["language"][name]), name
    assert found["joint"]["model.vision_tower.head.weight"].equal(found["tower"]["head.weight"])
    assert (tmp_path / "run" / "model.bitmar").is_file()
    alone = open_container(export_checkpoint(tmp_path / "run" / "joint", tmp_path / "alone.bitmar"))
    assert alone.card == open_container(tmp_path / "run" / "model.bitmar").card
    assert f"bitmar train {path}" in alone.card["command"]


def test_features_of_another_shape_than_the_models(
    recipe: dict[str, Any], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from bitmar.train.workspace import Workspace

    store = SimpleNamespace(tower="dinov2:small", grid=16, dim=384, folder=Path("none"))
    monkeypatch.setattr(Workspace, "features", lambda *_: store)
    recipe["stages"][0] |= {"pictures": "features", "tower": "dinov2:small"}
    with pytest.raises(ConfigError, match=r"16 x 16 patches of 384; .* vision_grid: 2 and vision_dim: 12"):
        run(load_recipe(write(recipe)))
