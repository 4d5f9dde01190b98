"""`bitmar plot`: each picture of a model and of a run, and what cannot be drawn."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="pictures need bitmar[plots]")


@pytest.fixture(autouse=True)
def no_shared_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BITMAR_DATA", raising=False)


def width(path: Path) -> int:
    with Image.open(path) as image:
        return image.width


def test_the_memory_of_a_model(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    result = cli("plot", "memory", model, tmp_path / "out/m.png")
    assert result.exit_code == 0, result.output
    assert width(tmp_path / "out/m.png") > 1000
    assert "8 scenes, 8 talk" in result.stderr and "stream of writes" in result.stderr


def test_the_memory_of_a_run_with_photos(cli: Callable[..., Any], trained: Path, shard: Path, tmp_path: Path) -> None:
    result = cli("plot", "memory", trained, tmp_path / "m.svg", "--data", shard)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "m.svg").read_text()
    assert "before training" in text and "joint, step 2" in text and ">captions<" in text
    assert "002" in result.stderr  # the photo that is cut off
    assert "photos and captions" in result.stderr and "usage along its log" in result.stderr


def test_a_session(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home.mem"
    assert cli("remember", "our dog Rex", "--memory", home, "--model", model).exit_code == 0
    assert cli("plot", "memory", model, tmp_path / "m.svg", "--memory", home).exit_code == 0
    assert "our dog Rex" in (tmp_path / "m.svg").read_text()


def test_attention(cli: Callable[..., Any], model: Path, photo: Path, tmp_path: Path) -> None:
    result = cli("plot", "attention", model, tmp_path / "a.png", "--image", photo, "--text", "A dog.")
    assert result.exit_code == 0, result.output
    assert width(tmp_path / "a.png") > 1000 and "A dog ." in result.stderr


def test_quantization(cli: Callable[..., Any], model: Path, trained: Path, tmp_path: Path) -> None:
    for source in (model, trained, trained / "joint"):
        result = cli("plot", "quantization", source, tmp_path / "q.svg")
        assert result.exit_code == 0, result.output
        over_time = "Over training" in (tmp_path / "q.svg").read_text()
        assert over_time == (source == trained)


@pytest.mark.parametrize("kind", ["memory", "quantization"])
def test_what_cannot_be_drawn(fails: Callable[..., str], kind: str, model: Path, tmp_path: Path) -> None:
    assert "saved as .png or .svg" in fails("plot", kind, model, tmp_path / "a.jpg")
    assert "no such file" in fails("plot", kind, tmp_path / "nowhere", tmp_path / "a.png")


def test_a_stage_that_is_not_there(fails: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    assert "did you mean 'joint'" in fails("plot", "memory", trained, tmp_path / "a.png", "--stage", "join")
    line = fails("plot", "memory", trained, tmp_path / "a.png", "--memory", tmp_path / "home.mem")
    assert "one model, not by a run" in line


def test_the_documentation_draws(model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/pictures.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(model, "model.bitmar")
    exec(compile(code, "documentation", "exec"), {})
    assert "A photo" in Path("attention.svg").read_text()
