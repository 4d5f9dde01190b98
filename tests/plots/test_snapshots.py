"""A run, read as its checkpoints and its course."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, FormatError
from bitmar.plots.snapshots import Snapshot, course, run_stages, snapshots, untrained


def test_checkpoints_from_the_first_to_the_last(run: Path) -> None:
    assert [str(one) for one in snapshots(run)] == ["first, step 10", "first, step 20", "second, step 20"]


def test_an_unfinished_stage_is_there_by_name(run: Path) -> None:
    assert [str(one) for one in snapshots(run, "tried")] == ["tried, step 7"]
    with pytest.raises(ConfigError, match="did you mean 'second'"):
        snapshots(run, "secnd")


def test_unfinished_stages_are_all_while_none_is_finished(run: Path) -> None:
    for stage in ("first", "second"):
        (run / stage / "finished.json").unlink()
    assert len(run_stages(run)) == 3


def test_a_checkpoint_opens_as_a_model(run: Path) -> None:
    first, *_, last = [one.open() for one in snapshots(run)]
    assert np.isfinite(first.score("a dog")).all()
    assert not np.array_equal(first.score("a dog"), last.score("a dog"))


def test_what_training_starts_from(run: Path) -> None:
    pytest.importorskip("torch", reason="a new model needs PyTorch")
    snapshot = snapshots(run)[0]
    fresh, again = untrained(snapshot), untrained(snapshot)
    assert fresh is not None and again is not None
    assert np.array_equal(fresh.score("a dog"), again.score("a dog"))
    assert not np.array_equal(fresh.score("a dog"), snapshot.open().score("a dog"))


def test_a_damaged_checkpoint_is_named(run: Path) -> None:
    (run / "first/checkpoint-10/model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FormatError, match=r"checkpoint-10.*damaged"):
        snapshots(run)[0].open()


def test_no_run_and_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no training run"):
        snapshots(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/log.jsonl").write_text('{"step": 1, "loss": 2}\n')
    with pytest.raises(FormatError, match="no checkpoint of a model yet"):
        snapshots(tmp_path)


def test_the_course_counts_through_all_stages(run: Path) -> None:
    found = course(run, ("zero_fraction", "live_slots", "unheard"))
    assert found.steps == [5, 10, 20, 25, 30, 40] and found.begins == [(0, "first"), (20, "second")]
    assert found.columns["zero_fraction"][:2] == [0.315, 0.32] and found.columns["unheard"] == [None] * 6
    assert len(course(run, ("unheard",))) == 0


def test_a_snapshot_says_what_it_is() -> None:
    assert str(Snapshot("caption", 5500, Path("x"))) == "caption, step 5,500"
