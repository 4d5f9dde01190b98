"""The sheet of captions judged by eye: its list, its judgements, and what a new caption does to them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bitmar.core.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sheet() -> ModuleType:
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("no benchmarks/ beside the tests: a source distribution has none")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("sheet")
    finally:
        sys.path.pop(0)


class Talker:
    """Says the same of every photo."""

    def __init__(self, caption: str) -> None:
        self.caption = caption

    def generate(self, prompt: str, photo: Path, max_tokens: int) -> Any:
        return SimpleNamespace(text=f" {self.caption}", confidence=0.25)


@pytest.fixture
def lone(sheet: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One wallpaper, its caption judged."""
    (tmp_path / "deb").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "deb" / "hill.png")
    entry = {"package": "walls", "file": "hill.png", "licence": "CC0", "by": "me", "shown": True}
    (tmp_path / "photos.json").write_text(json.dumps([entry]))
    (tmp_path / "by-eye.json").write_text('{"hill.png": {"A hill.": "right"}}')
    monkeypatch.setattr(sheet, "PHOTOS", tmp_path / "photos.json")
    monkeypatch.setattr(sheet, "VERDICTS", tmp_path / "by-eye.json")
    return tmp_path


def test_the_judgements_are_of_listed_photos(sheet: ModuleType) -> None:
    photos = [photo.file for photo in sheet.read_photos()]
    assert len(photos) == len(set(photos)) == 40 and sum(photo.shown for photo in sheet.read_photos()) == 12
    assert set(sheet.read_verdicts()) <= set(photos)


@pytest.mark.parametrize("caption, judged", [("A hill.", "right"), ("A dog.", "not judged yet")])
def test_a_judgement_belongs_to_a_caption(
    sheet: ModuleType, lone: Path, monkeypatch: pytest.MonkeyPatch, caption: str, judged: str
) -> None:
    monkeypatch.setattr(sheet, "load", lambda model: Talker(caption))
    sheet.main(model=None, photos=lone, everything=False, out=lone / "out" / "sheet.png", json=lone / "sheet.json")
    assert f"| 1 | hill.png | {caption} | 25 % | {judged} | walls | CC0, me |" in (lone / "out/sheet.md").read_text()
    assert Image.open(lone / "out" / "sheet.png").width == 1000
    found = json.loads((lone / "sheet.json").read_text())["figures"]
    assert found["right"] == (judged == "right") and found["unjudged"] == (judged != "right")
    kept = json.loads((lone / "by-eye.json").read_text())["hill.png"]
    assert kept["A hill."] == "right" and kept[caption] == ("right" if judged == "right" else None)


def test_what_is_wrong_is_told(sheet: ModuleType, lone: Path) -> None:
    with pytest.raises(DataError, match=r"hill.png comes with Debian's walls: .*--photos"):
        sheet.read_photos()[0].find(None)
    (lone / "by-eye.json").write_text('{"hill.png": {"A hill.": "good"}}')
    with pytest.raises(ConfigError, match="right, partly, wrong or null, not 'good'"):
        sheet.read_verdicts()
