"""Episodes that move between memories and models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar import BitMar
from bitmar.core.errors import MemoryFileError
from bitmar.session.session import Session

from ._pictures import SLOTS, picture


def test_of_one_photo_the_later_text_is_imported(model: BitMar, tmp_path: Path) -> None:
    old, new = model.memory(), model.memory()
    old.remember("Rex", picture(0))
    new.remember("Max", picture(0))
    old.export(tmp_path / "old.jsonl")
    new.export(tmp_path / "new.jsonl")
    assert old.import_(tmp_path / "new.jsonl").updated == 1 and old.recall(image=picture(0))[0].episode.text == "Max"
    assert new.import_(tmp_path / "old.jsonl").known == 1 and new.recall(image=picture(0))[0].episode.text == "Max"


def essence(session: Session) -> list[tuple[str, float, str | None]]:
    return sorted((episode.text, episode.time, episode.photo) for episode in session.inspect())


def test_export_and_import_are_inverse(model: BitMar, tmp_path: Path) -> None:
    memory, again = model.memory(), model.memory()
    memory.remember("with a photo", picture(0))
    memory.remember(image=picture(1))
    memory.remember("a text, ünïcode\nand lines")
    assert memory.export(tmp_path / "out.jsonl") == 3
    moved = again.import_(tmp_path / "out.jsonl")
    assert (moved.added, moved.known, moved.text_only, moved.left_out, moved.lost) == (3, 0, 0, 0, 0)
    assert essence(again) == essence(memory)
    np.testing.assert_array_equal(again.state_for(model).slots, memory.state_for(model).slots)
    assert again.recall(image=picture(1))[0].episode.text == ""
    assert again.import_(tmp_path / "out.jsonl").known == 3 and len(again) == 3


def test_another_model_takes_over_the_texts(model: BitMar, other: BitMar, tmp_path: Path) -> None:
    memory, theirs = model.memory(), other.memory()
    memory.remember("with a photo", picture(0))
    memory.remember(image=picture(1))
    memory.remember("a text alone")
    memory.export(tmp_path / "out.jsonl")
    moved = theirs.import_(tmp_path / "out.jsonl")
    assert (moved.added, moved.text_only, moved.left_out) == (2, 1, 1)
    assert theirs.recall(text="text alone")[0].episode.text == "a text alone"
    assert theirs.recall(image=picture(0)) == []


def test_merging_keeps_the_most_used(model: BitMar) -> None:
    one, two = model.memory(), model.memory()
    for i in range(SLOTS):
        one.remember(f"one {i}")
        two.remember(f"two {i}")
    moved = one.merge(two)
    assert (moved.added, moved.lost) == (SLOTS, SLOTS) and essence(one) == essence(two)
    assert one.merge(two).known == SLOTS


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: [{"format": "something else"}, *lines[1:]],
        lambda lines: [*lines, ["no object"]],
        lambda lines: [*lines, {**lines[1], "time": "noon"}],
        lambda lines: [*lines, {**lines[1], "time": 1e300}],
        lambda lines: [*lines, {**lines[1], "time": True}],
        lambda lines: [*lines, {**lines[1], "text": "half a character: \ud800"}],
        lambda lines: [lines[0], {**lines[1], "text": "first"}, {**lines[1], "text": "\udfff"}, *lines[1:]],
        lambda lines: [{**lines[0], "model": "ef" * 32}, lines[1], {**lines[1], "text": "\ud800"}],
        lambda lines: [*lines, {**lines[1], "photo": "xyz"}],
        lambda lines: [*lines, {**lines[1], "vectors": {"value": "!"}}],
        lambda lines: [*lines, {**lines[1], "vectors": {}}],
        lambda lines: [*lines, {**lines[1], "vectors": {"value": "AAAA"}}],
        lambda lines: [*lines, {**lines[1], "vectors": {**lines[1]["vectors"], "image": "AAAAAA=="}}],
    ],
)
def test_damaged_exports_change_nothing(model: BitMar, tmp_path: Path, change: Callable[[list[Any]], Any]) -> None:
    memory, path = model.memory(), tmp_path / "out.jsonl"
    memory.remember("one", picture(0))
    memory.export(path)
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    empty = model.memory()
    with pytest.raises(MemoryFileError, match=r"out\.jsonl: "):
        empty.import_(path)
    assert len(empty) == 0
