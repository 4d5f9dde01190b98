"""Yes/no questions on pictures, from files to accuracies."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar.core.errors import DataError
from bitmar.evaluate.figure import plain
from bitmar.evaluate.store import Store
from bitmar.evaluate.tasks.nlvr import Question, evaluate_nlvr, read_questions, report
from bitmar.evaluate.work import Work, nobody

from ..fakes import FakeScorer


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 4), (level, level, level)).save(file, "PNG")
    return file.getvalue()


LINES: list[Any] = [
    {"image": "n/a.png", "sentence": "There is a box.", "label": "true", "split": "dev"},
    {"image": "n/b.png", "sentence": "A tower has two blocks", "label": "False"},
]


def pack(path: Path, lines: list[Any] = LINES) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("n/a.png", png(10))
        archive.writestr("n/b.png", png(200))
        archive.writestr("n/c.png", b"no picture")
        archive.writestr("n/n.jsonl", "\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_zip_and_folder_give_the_same_questions(tmp_path: Path) -> None:
    found = list(read_questions(pack(tmp_path / "n.zip"), nobody))
    assert [(q.sentence, q.truth, q.split) for q in found] == [
        ("There is a box.", True, "dev"),
        ("A tower has two blocks", False, "all"),
    ]
    assert np.asarray(found[1].image).mean() == 200
    assert found[0].prompt == "Is it true that there is a box?"
    zipfile.ZipFile(tmp_path / "n.zip").extractall(tmp_path / "folder")
    assert [q.sentence for q in read_questions(tmp_path / "folder", nobody)] == [q.sentence for q in found]


def test_bad_lines_are_named_and_skipped(tmp_path: Path) -> None:
    bad = ["no json", "[]", {**LINES[0], "label": "maybe"}, {**LINES[0], "sentence": " "}]
    unseen = [{**LINES[0], "image": "n/c.png"}, {**LINES[0], "image": "n/none.png"}, {**LINES[0], "image": "../../x"}]
    path, named = pack(tmp_path / "n.zip", [*bad, *unseen, LINES[0]]), []
    assert len(list(read_questions(path, lambda name, why: named.append((name, why))))) == 1
    assert [name for name, _ in named] == [f"{path}/n/n.jsonl:{i}" for i in range(1, 8)]
    assert "not JSON" in named[0][1] and "label" in named[2][1] and "n/c.png" in named[4][1]


def test_what_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    whole = pack(tmp_path / "n.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    for name in ("half.zip", "none.zip"):
        with pytest.raises(DataError, match=r"cannot be read .*as a whole|is not there"):
            list(read_questions(tmp_path / name, nobody))
    locked = bytearray(whole)
    place = locked.index(b"PK\x01\x02")
    locked[place + 8] |= 1  # the flag of an encrypted file
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(DataError, match="password"):
        list(read_questions(tmp_path / "locked.zip", nobody))
    with pytest.raises(DataError, match="no questions"):
        list(read_questions(pack(tmp_path / "empty.zip", []), nobody))


def questions(count: int) -> list[Question]:
    return [
        Question(str(i), Image.new("RGB", (2, 2), (255, 0, 0) if i % 2 else (0, 0, 0)), f"It is {i}.", i % 2 == 1, "s")
        for i in range(count)
    ]


def red(text: str, image: Any) -> list[float]:
    """Says "yes" far too readily, but a little more so where the picture is red."""
    if text.endswith(" No."):
        return [-1.0, -9.0]
    return [-1.0, -3.0 if image is None else -2.5 if np.asarray(image)[0, 0, 0] else -3.5]


def test_calibration_finds_what_a_bias_hides() -> None:
    found = evaluate_nlvr(FakeScorer(red), iter(questions(9)), Work())
    assert found.raw.yes == 1 and found.raw.accuracy.value == pytest.approx(4 / 9)
    assert found.raw.balanced.value == pytest.approx(0.5) and found.blind.yes == 1
    assert found.pmi.accuracy.value == 1 and found.pmi.balanced.value == pytest.approx(1)
    assert found.majority == pytest.approx(5 / 9) and found.questions == 9
    assert json.loads(json.dumps(plain(found)))["by_split"]["s"]["pmi"]["value"] == 1


def test_ties_are_halves_and_counted() -> None:
    found = evaluate_nlvr(FakeScorer(lambda text, image: [-2.0]), iter(questions(4)), Work())
    for each in (found.raw, found.pmi, found.blind):
        assert each.accuracy.value == 0.5 and each.tie_share == 1 and each.yes == 0


def test_splits_are_told_apart() -> None:
    found = report(np.array([1.0, 1.0, -1.0]), np.zeros(3), np.array([True, False, False]), ["a", "a", "b"])
    assert found.by_split["a"]["raw"].value == 0.5 and found.by_split["b"]["raw"].value == 1


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    asked: list[str] = []

    def remembering(text: str, image: Any) -> list[float]:
        asked.append(text)
        return red(text, image)

    with Store(tmp_path / "log", {}) as log:
        evaluate_nlvr(FakeScorer(remembering), iter(questions(3)), Work(store=log))
    first = len(asked)
    with Store(tmp_path / "log", {}) as log:
        found = evaluate_nlvr(FakeScorer(remembering), iter(questions(5)), Work(store=log))
    assert first == 12 and len(asked) - first == 8
    assert found == evaluate_nlvr(FakeScorer(red), iter(questions(5)), Work())


def test_all_of_nlvr_is_read(shared_data: Path) -> None:
    from itertools import islice

    path = shared_data / "eval" / "nlvr1.zip"
    found = list(islice(read_questions(path, nobody), 40))
    assert len(found) == 40 and found[0].image.size == (400, 100) and {q.truth for q in found} == {True, False}


def test_a_real_model_answers(folder: Path, photo: Callable[[int], Image.Image]) -> None:
    from bitmar.evaluate.scorer import load_scorer

    asked = [Question(str(i), photo(i), "the dog runs", bool(i % 2), "s") for i in range(4)]
    found = evaluate_nlvr(load_scorer(folder / "packed"), iter(asked), Work())
    assert found.questions == 4 and found.pmi.tie_share == 0
