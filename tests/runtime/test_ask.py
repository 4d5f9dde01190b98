"""Questions about photos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, ImageError
from bitmar.runtime import ask as module
from bitmar.runtime.ask import CANNOT_TELL, ask, choices_of, evidence_for, is_polar, tidy
from bitmar.runtime.options import GenerationOptions


@pytest.mark.parametrize(
    ("text", "tidied", "polar"),
    [
        ("is there a dog", "Is there a dog?", True),
        ("  What color\n is it? ", "What color is it?", False),
        ("Is it a dog or a cat?", "Is it a dog or a cat?", False),
        ("How many?!", "How many?", False),
    ],
)
def test_questions_are_put_as_the_model_knows_them(text: str, tidied: str, polar: bool) -> None:
    assert tidy(text) == tidied and is_polar(tidied) is polar


def test_colors_and_numbers_are_chosen_from() -> None:
    assert "brown" in choices_of("What color is the dog?") and "3" in choices_of("How many dogs are there?")
    assert choices_of("Is it red?") == ["yes", "no"] and choices_of("What is this?") == []


@pytest.mark.parametrize("empty", ["", " ?", "..."])
def test_no_question_is_an_error(empty: str) -> None:
    with pytest.raises(ConfigError, match="ask a question"):
        tidy(empty)


class Pretender:
    """A backend and its state, whose likelihoods are given, by (with a photo, last token but the end)."""

    def __init__(self, table: dict[tuple[bool, int], float], seen: bool = False) -> None:
        self.table, self.seen = table, seen

    def start(self, image: Any) -> Pretender:
        return Pretender(self.table, image is not None)

    def score(self, ids: Any) -> Any:
        scores = np.zeros(len(ids) - 1, np.float32)
        scores[-2] = self.table[self.seen, int(ids[-2])]
        return scores


class Words:
    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        return type("E", (), {"ids": [{" yes": 5, " no": 6}.get(text, 4)]})


def answer(monkeypatch: pytest.MonkeyPatch, seen: tuple[float, float], blind: tuple[float, float]) -> Any:
    monkeypatch.setattr(module, "encode", lambda tokenizer, text: tokenizer.encode(text).ids)
    table = {(True, 5): seen[0], (True, 6): seen[1], (False, 5): blind[0], (False, 6): blind[1]}
    return ask(Pretender(table), Words(), None, 1, 2, "Is there a dog?", object())  # type: ignore[arg-type]


def test_yes_and_no_are_weighed_against_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(monkeypatch, seen=(-1.0, -3.0), blind=(-2.0, -2.0))
    assert (found.text, found.guess, found.certain) == ("yes", "yes", True)
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert found.gain == pytest.approx(np.log(found.confidence / 0.5))


def test_an_answer_that_the_photo_does_not_move_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answer(monkeypatch, seen=(-1.0, -3.0), blind=(-1.0, -3.0))
    assert (found.text, found.guess, found.certain) == (CANNOT_TELL, "yes", False)


class Told:
    def weights_of_evidence(self, text: str, scores: object) -> list[float]:
        return [2.0 for word in ("dog", "brown") if word in text]


class Seen:
    concepts = np.ones(1)


@pytest.mark.parametrize(
    ("question", "answer", "nats"),
    [
        ("Is there a dog?", "yes", 2.0),
        ("Is there a dog?", "no", 0.0),
        ("What color is the dog?", "brown", 2.0),
        ("What color is the dog?", "red", 0.0),
    ],
)
def test_concepts_speak_for_yes_or_for_the_answer(question: str, answer: str, nats: float) -> None:
    assert evidence_for(answer, question, Seen(), Told()) == nats  # type: ignore[arg-type]
    assert evidence_for(answer, question, Seen(), None) == 0.0  # type: ignore[arg-type]


def test_a_model_answers_or_says_that_it_cannot(make_pair: Callable[..., Any]) -> None:
    pair = make_pair()
    model = pair.bitmar
    image = model.encode_image(features=pair.image()["vision_features"][0])
    for question in ("Is there a dog?", "What is this?"):
        found = model.ask(image, question)
        assert 0 <= found.confidence <= 1 and (found.text == found.guess or found.text == CANNOT_TELL)
        assert pair.native().ask(image, question).guess == found.guess
    with pytest.raises(ImageError, match="needs a photo"):
        model.ask(None, "What is this?")


def test_answers_end_where_the_model_ends_them() -> None:
    assert GenerationOptions(max_tokens=module._LONGEST).temperature == 0
