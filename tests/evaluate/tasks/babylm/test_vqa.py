"""VQA on known answers; the pictures are of one colour, which is also what they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.tasks.babylm.vqa import vqa
from bitmar.evaluate.work import Work

LINE = {"question": "what colour", "target_ans": "red", "distractors": ["green", "grass", "a man"], "image_id": 7}


def sees_red(pieces: Sequence[str], picture: Any) -> Sequence[float]:
    """Says red beside a red picture, anything else beside others; a longer answer costs no more."""
    red = np.asarray(picture)[0, 0, 0] > 128
    return [0.0] * (len(pieces) - 1) + [-1.0 if ("red" in "".join(pieces)) == red else -2.0]


def test_the_answer_beside_its_picture(
    write: Callable[..., Path], judge: Callable[..., Any], paint: Callable[..., Path], tmp_path: Path
) -> None:
    """Beside red pictures the answer wins alone; beside the blue one it loses."""
    write(tmp_path / "vqa_distractors_info.jsonl", [{**LINE, "idx_in_hf_dataset": i} for i in range(4)])
    for i, colour in enumerate([(255, 0, 0)] * 3 + [(0, 0, 255)]):
        paint(tmp_path / "images" / f"{i}.png", colour)
    found = vqa(judge(sees_red), tmp_path, Work())["vqa"]
    assert found.figure.value == 0.75 and found.figure.ties == 0 and found.figure.chance == 0.25 and found.figure.n == 4


def test_the_question_does_not_count(
    write: Callable[..., Path], judge: Callable[..., Any], paint: Callable[..., Path], tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", [{**LINE, "distractors": ["dog", "man"], "idx_in_hf_dataset": 0}])
    paint(tmp_path / "images" / "0.jpg", (255, 0, 0))
    question = len(LINE["question"])

    def rule(pieces: Sequence[str], _: Any) -> Sequence[float]:
        before = np.cumsum([len(piece) for piece in pieces]) <= question
        return np.where(before, -5.0, 0.0)  # the answers themselves are all alike

    assert vqa(judge(rule), tmp_path, Work())["vqa"].figure.ties == 1


def test_pictures_by_coco_s_own_name_and_lines_that_are_broken(
    write: Callable[..., Path], judge: Callable[..., Any], paint: Callable[..., Path], tmp_path: Path
) -> None:
    lines = [{**LINE, "idx_in_hf_dataset": 4, "image_id": 8}, {**LINE, "idx_in_hf_dataset": 5}, {"question": "what"}]
    path = write(tmp_path / "a.jsonl", lines)
    paint(tmp_path / "images" / "COCO_val2014_000000000008.jpg", (255, 0, 0))
    bad: list[str] = []
    found = vqa(judge(sees_red), tmp_path, Work(on_bad=lambda name, why: bad.append(name)))["vqa"]
    assert found.figure.n == 1 and bad == [f"{path}:3", str(tmp_path / "images" / "5.jpg")]


def test_without_pictures_it_says_where_they_belong(
    write: Callable[..., Path], judge: Callable[..., Any], tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", [{**LINE, "idx_in_hf_dataset": 0}])
    with pytest.raises(DataError, match=r"pictures are missing: put them into .*images"):
        vqa(judge(sees_red), tmp_path, Work())
