"""Captioned photos in folders and tables: what is found, whose caption is whose, and what is skipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bitmar.core.errors import DataError
from bitmar.data.captioned_files import iter_captioned


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name in ("a.jpg", "b.JPG", "below/c.png", ".hidden.jpg"):
        (folder / name).write_bytes(jpeg())
    return folder


def read(*sources: Path) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    bad: dict[str, str] = {}
    return {p.key: p.captions for p in iter_captioned(map(str, sources), bad.__setitem__)}, bad


def test_texts_beside_photos(photos: Path) -> None:
    (photos / "a.txt").write_text("\ufeffA cat.\n\nA green cat.\n", encoding="utf-8")
    (photos / "below/c.png.txt").write_text("A dog.")
    found, bad = read(photos)
    assert found == {
        str(photos / "a.jpg"): ("A cat.", "A green cat."),
        str(photos / "b.JPG"): (),
        str(photos / "below/c.png"): ("A dog.",),
    }
    assert not bad


def test_a_text_that_may_be_of_either_of_two_photos_is_of_neither(photos: Path, jpeg: Callable[..., bytes]) -> None:
    (photos / "a.png").write_bytes(jpeg())
    (photos / "a.txt").write_text("A cat.")
    (photos / "a.png.txt").write_text("A dog.")
    found, bad = read(photos)
    assert found[str(photos / "a.png")] == ("A dog.",) and str(photos / "a.jpg") not in found
    assert bad == {str(photos / "a.jpg"): "a.txt may be another photo's: call it a.jpg.txt"}


def test_a_text_in_utf_16_is_no_caption(photos: Path) -> None:
    (photos / "a.txt").write_bytes("A cat.".encode("utf-16-le"))
    assert "NUL bytes" in read(photos)[1][str(photos / "a.jpg")]


def test_a_table_as_caption_writes_it(photos: Path) -> None:
    table = photos / "captions.csv"
    table.write_text(
        f'photo,caption,confidence,general\na.jpg,"A cat, green.",0.5,\n{photos / "below/c.png"},A dog.,,\n'
        "a.jpg,A cat.,,\nnone.jpg,Nothing.,,\na.jpg\n"
    )
    found, bad = read(table)
    assert found == {str(photos / "a.jpg"): ("A cat, green.", "A cat."), str(photos / "below/c.png"): ("A dog.",)}
    assert list(bad) == [f"{table}:4", f"{table}:5"] and "no photo none.jpg" in bad[f"{table}:4"]


def test_lines_of_json(photos: Path) -> None:
    lines = photos / "captions.jsonl"
    lines.write_text(
        '{"photo": "a.jpg", "caption": "A cat.", "tokens": 3}\n{broken\n[1]\n{"photo": 1, "caption": ""}\n'
    )
    found, bad = read(lines)
    assert found == {str(photos / "a.jpg"): ("A cat.",)}
    assert list(bad) == [f"{lines}:{n}" for n in (2, 3, 4)]


def test_a_text_that_is_no_text_is_named(photos: Path) -> None:
    (photos / "a.txt").write_bytes(b"\xff\xfe\0")
    found, bad = read(photos)
    assert str(photos / "a.jpg") not in found and "its .txt cannot be read" in bad[str(photos / "a.jpg")]


@pytest.mark.parametrize("name", ["empty", "none.csv", "none.tar", "latin.csv"])
def test_a_source_that_is_not_there_or_no_table(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.csv").write_bytes(b"photo,caption\na.jpg,caf\xe9\n")
    with pytest.raises(DataError):
        read(tmp_path / name)
