"""`bitmar train` and `bitmar distill`: what reaches the recipe, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml", reason="recipes need bitmar[train]")


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("ouptut=x", "unknown key 'ouptut' (did you mean 'output'?)"),
        ("model.hiden_size=3", "did you mean 'hidden_size'"),
        ("stages.0.training.learning_rat=1", "did you mean 'learning_rate'"),
        ("stages.0.training.schedule=cosin", "did you mean 'cosine'"),
        ("stages.0.kind=fitt", "did you mean 'fit'"),
        ("stages.7.kind=fit", "--set stages.7.kind=fit"),
        ("stages", "--set needs KEY=VALUE"),
        ("tower.heads=3", "unknown VisionTowerConfig key 'heads'"),
    ],
)
def test_a_recipe_that_makes_no_sense(fails: Callable[..., str], recipe: Path, assignment: str, message: str) -> None:
    assert message in fails("train", recipe, "--set", assignment)


def test_no_recipe_and_no_yaml(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "cannot read the recipe" in fails("train", tmp_path / "no.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1,\n b: 2")
    assert "not valid YAML" in fails("train", tmp_path / "bad.yaml")


def test_unknown_stages_and_kinds(fails: Callable[..., str], recipe: Path) -> None:
    pytest.importorskip("torch", reason="training needs bitmar[train]")
    assert "did you mean 'joint'" in fails("train", recipe, "--stage", "joinnt")
    assert "no stage of the kind distill" in fails("distill", recipe)


def test_a_run_leaves_a_model_and_is_not_run_again(cli: Callable[..., Any], trained: Path) -> None:
    log = (trained / "joint" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log if "loss" in json.loads(line)] == [1, 2]
    result = cli("train", trained.parent / "tiny.yaml")
    assert result.exit_code == 1 and "finished before" in result.stderr  # still without the broken photo
    assert f"--model {trained}" in result.stderr.replace("\n", "")
    assert (trained / "joint" / "log.jsonl").read_text().splitlines() == log


def test_photos_that_were_left_out_are_named_at_the_end(cli: Callable[..., Any], recipe: Path, shard: Path) -> None:
    pytest.importorskip("torch", reason="training needs bitmar[train]")
    for change in ((), ("--set", f"output={recipe.parent / 'again'}")):  # decoded just now, or by another run
        result = cli("train", recipe, "--set", "stages.joint.training.steps=1", *change)
        assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("1 skipped: "), result.output
        assert result.stderr.splitlines()[-1].endswith("002") and (recipe.parent / "run" / "model.bitmar").is_file()


def test_ctrl_c_says_that_a_run_goes_on_only_once_something_is_kept(
    cli: Callable[..., Any], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = recipe.parent / "run"
    kept: list[str] = []

    def stop(*_: Any, **__: Any) -> Path:
        for name in kept:
            (output / name).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("bitmar.train.run.run", stop)
    assert cli("train", recipe).stderr == "stopped\n"
    kept.append("joint/checkpoint-2")
    assert cli("train", recipe).stderr == f"stopped; {output} is kept: run the same command again to go on\n"
