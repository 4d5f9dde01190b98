"""The copy of a run's output at an address that all machines can reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bitmar.core.errors import ConfigError, DataError, OutputError
from bitmar.train.mirror import MARK, Mirror
from bitmar.train.trainer import last_checkpoint

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{uuid4().hex}/run" if request.param == "memory" else f"file://{tmp_path}/far/run"


def checkpoint(stage: Path, step: int) -> Path:
    folder = stage / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "rng_state_1.pth", "trainer_state.json"):
        (folder / name).write_text(f"{name} of {step}")
    return folder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_gets_the_newest_checkpoint_and_a_finished_stage(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    mirror = Mirror(url, here)
    for step in (2, 4, 10):
        mirror.push_checkpoint(checkpoint(here / "all", step))
    other = Mirror(url, there)
    other.pull(there / "all")
    assert last_checkpoint(there / "all") == there / "all" / "checkpoint-10"
    assert files(there / "all" / "checkpoint-10") == files(here / "all" / "checkpoint-10")
    (here / "all" / "model.safetensors").write_text("trained")
    (here / "all" / "finished.json").write_text("{}")
    mirror.push(here / "all")
    other.pull(there / "all")
    assert (there / "all" / "model.safetensors").read_text() == "trained" and (there / "all" / "finished.json").exists()
    assert not list(there.rglob(".coming*"))
    other.pull(there / "never")
    assert not (there / "never").exists()


def test_what_is_not_whole_is_not_there(url: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    mirror = Mirror(url, here)
    mirror.push_checkpoint(checkpoint(here / "all", 2))
    mirror.push_checkpoint(checkpoint(here / "all", 4))
    system, root = fsspec.core.url_to_fs(url)
    system.rm_file(f"{root}/all/checkpoint-4/{MARK}")  # as a kill leaves it
    Mirror(url, there).pull(there / "all")
    assert [path.name for path in (there / "all").iterdir()] == ["checkpoint-2"]


def test_what_is_dropped_here_is_dropped_there(url: str, tmp_path: Path) -> None:
    mirror, old = Mirror(url, tmp_path), checkpoint(tmp_path / "all", 2)
    mirror.push_checkpoint(old)
    for path in old.iterdir():
        path.unlink()
    old.rmdir()
    mirror.push_checkpoint(checkpoint(tmp_path / "all", 4))
    system, root = fsspec.core.url_to_fs(url)
    assert [Path(name).name for name in system.ls(f"{root}/all", detail=False)] == ["checkpoint-4"]


def test_faults_of_the_far_side_are_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="checkpoints: nosuch://x cannot be opened"):
        Mirror("nosuch://x", tmp_path)
    memory: Any = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    mirror = Mirror("memory://full/run", tmp_path)
    monkeypatch.setattr(memory, "put_file", full)
    with pytest.raises(OutputError, match=r"memory://full/run cannot be written.*: No space left on device"):
        mirror.push_checkpoint(checkpoint(tmp_path / "all", 2))
    monkeypatch.setattr(memory, "exists", full)
    with pytest.raises(DataError, match="memory://full/run cannot be read: No space"):
        mirror.pull(tmp_path / "all")
