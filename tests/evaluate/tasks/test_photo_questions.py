"""Questions made from captions, from photos to accuracies."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.figure import plain
from bitmar.evaluate.tasks.photo_questions import answers_of, evaluate_photo_questions, make_questions

from ..fakes import FakeScorer

CAPTIONS = [
    ["A black dog is running along the beach."],
    ["Two men in red shirts are near a car."],
    ["A brown horse is in the snow."],
    ["Three children are in the water."],
]


def test_a_question_of_each_kind_about_each_photo() -> None:
    asked = make_questions(CAPTIONS)
    assert asked == make_questions(CAPTIONS)
    assert len({(each.kind, each.photo) for each in asked}) == len(asked)
    known = {(each.question, each.answer, each.photo) for each in asked}
    assert {
        ("What color is the dog?", "black", 0),
        ("What is the dog doing?", "running", 0),
        ("How many men are there?", "2", 1),
        ("What color are the shirts?", "red", 1),
        ("How many children are there?", "3", 3),
    } <= known
    answers = answers_of(asked)
    assert answers["action"] == ("running",) and answers["truth"] == ("yes", "no") and "8" in answers["count"]
    assert all(each.answer in answers[each.kind] for each in asked)


def seeing(text: str, image: Any) -> list[float]:
    """Sees how often the photo's number stands for the answer that is right; blind it always says black, 2, yes."""
    if image is None:
        return [0.0 if text.endswith((" black", " 2", " yes")) else -1.0]
    own = " ".join(CAPTIONS[int(np.asarray(image).flat[0])]).lower()
    own = own.replace("two", "2").replace("three", "3")
    question, answer = text.rsplit(" ", 1)
    if answer in ("yes", "no"):
        thing = question.removeprefix("Is it true that ").removesuffix("?").removeprefix("Is there ")
        thing = thing.removesuffix(" in the picture").removeprefix("a ").removeprefix("an ").lower()
        thing = thing.replace("two", "2").replace("three", "3")
        return [float((thing in own) == (answer == "yes"))]
    return [float(answer in own)]


def test_what_is_seen_is_told_from_what_is_habit() -> None:
    found = evaluate_photo_questions(FakeScorer(seeing), [np.full((1, 1), i) for i in range(4)], CAPTIONS)
    assert set(found.kinds) == {"color", "count", "action", "presence", "truth"} and found.photos == 4
    for report in found.kinds.values():
        assert report.seen.value == 1
        assert report.gain.value == pytest.approx(report.seen.value - report.blind.value)
    assert found.kinds["color"].blind.value == pytest.approx(1 / 3) and found.kinds["color"].questions == 3
    assert found.kinds["count"].blind.value == 0.5 and found.kinds["count"].chance == pytest.approx(1 / 7)
    assert json.loads(json.dumps(plain(found)))["kinds"]["count"]["commonest"] == 0.5


def test_ties_are_shared_out() -> None:
    found = evaluate_photo_questions(FakeScorer(lambda text, image: [-1.0]), list(range(4)), CAPTIONS)
    for report in found.kinds.values():
        assert report.seen.value == pytest.approx(report.chance) and report.gain.value == 0


def test_what_cannot_be_asked() -> None:
    with pytest.raises(DataError, match="at least two"):
        evaluate_photo_questions(FakeScorer(), [0], CAPTIONS[:1])
    with pytest.raises(DataError, match="could be asked about"):
        evaluate_photo_questions(FakeScorer(), [0, 1], [[], [" "]])
