"""Invariant 8: a killed run, started again, ends where an uninterrupted one does, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

from bitmar.train import distill
from bitmar.train.recipe import load_recipe
from bitmar.train.run import run
from bitmar.train.runs import read_log
from bitmar.train.trainer import checkpoints, last_checkpoint
from bitmar.train.words import WordsSeen

TIMED = ("seconds", "tokens_per_second", "train_runtime", "train_samples_per_second", "train_steps_per_second")


def killed_at(step: int, recipe: Path) -> None:
    program = Path(__file__).with_name("child.py")
    command = [sys.executable, program, "kill", recipe, str(step)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log without what the clock says and without the summary of the last session."""
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read_log(folder) if "loss" in line]


def state_of(checkpoint: Path, callback: str) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"][callback]["attributes"]


def test_a_killed_fit_resumes_to_the_same_weights(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(recipe)
    whole = run(load_recipe(path, [f"output={tmp_path / 'whole'}"])) / "all"
    killed_at(6, path)
    half = Path(recipe["output"]) / "all"
    assert last_checkpoint(half) == half / "checkpoint-4"
    assert [line["step"] for line in log_of(half)] == [1, 2, 3, 4, 5, 6]
    run(load_recipe(path))
    assert same_weights(whole, half)
    assert log_of(half) == log_of(whole)  # every loss, the held-out figures, the words; no step twice
    assert log_of(half)[-1]["words"] > log_of(half)[4]["words"] > 0
    for callback in ("WordsSeen", "ControllerCallback"):
        one, other = (state_of(last_checkpoint(folder), callback) for folder in (whole, half))
        assert one == other
    assert state_of(last_checkpoint(half), "ControllerCallback")["ema"] is not None


def test_a_killed_distillation_resumes_to_the_same_weights(
    recipe: dict[str, Any],
    write: Callable[..., Path],
    child: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distill, "LiteRTTorch", child.Teacher)
    training = {**recipe["stages"][0]["training"], "steps": 6, "save_every": 2, "save_words": False}
    recipe["stages"] = [{"name": "tower", "kind": "distill", "teacher": "litert:none", "rows": 4, "training": training}]
    path = write(recipe)
    whole = run(load_recipe(path, [f"output={tmp_path / 'whole'}"])) / "tower"
    killed_at(3, path)
    half = Path(recipe["output"]) / "tower"
    assert last_checkpoint(half) == half / "checkpoint-2"
    run(load_recipe(path))
    assert same_weights(whole, half)
    assert log_of(half) == log_of(whole)
    assert len(checkpoints(half)) == 2  # keep


def test_milestones_already_passed_are_not_written_again() -> None:
    written: list[int] = []
    words = WordsSeen(written.append)
    state = type("State", (), {"stateful_callbacks": {}, "is_world_process_zero": True})()
    words.on_train_begin(None, state, None)
    words.seen = 2_500_000
    words.on_step_end(None, state, None)
    assert written == [1, 2]
    resumed = WordsSeen(written.append)
    state.stateful_callbacks = {"WordsSeen": words.state()}
    resumed.on_train_begin(None, state, None)
    assert resumed.seen == 2_500_000
    resumed.seen += 600_000
    resumed.on_step_end(None, state, None)
    assert written == [1, 2, 3]


def test_a_finished_stage_is_not_run_again(
    recipe: dict[str, Any], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitmar.train import fit

    recipe["stages"][0]["training"]["steps"] = 1
    path = write(recipe)
    run(load_recipe(path))
    monkeypatch.setattr(fit, "fit", lambda *_: pytest.fail("trained again"))
    run(load_recipe(path))
