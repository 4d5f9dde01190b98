"""Captions that say how far they can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar import load
from bitmar.core.container import with_tensors
from bitmar.core.tensors import CONFIDENCE
from bitmar.runtime.confidence import Witness, log_odds

NAMES = ("dog", "cat", "grass", "running", "car", "sky")


class Bank:
    class_nouns = np.array([0, 1, 4])
    prior = np.full(6, -2.0, np.float32)


class File:
    def __init__(self, weights: list[float] | None) -> None:
        self.tensors = {} if weights is None else {CONFIDENCE: np.array(weights, np.float32)}


def witness(weights: list[float] | None = None) -> Witness:
    return Witness(File(weights), Bank(), NAMES)  # type: ignore[arg-type]


def scores(**values: float) -> Any:
    return np.array([values.get(name, 0.02) for name in NAMES], np.float32)


def test_the_subject_is_the_first_thing_named() -> None:
    named = witness()
    assert named.subject("A dog runs after a cat on the grass.") == NAMES.index("dog")
    assert named.subject("Running on grass.") is None


def test_what_the_photo_shows_speaks_for_a_caption() -> None:
    named = witness([0, 1, 0, 0, 0, 0, 0])
    right, wrong = scores(dog=0.9), scores(cat=0.9)
    assert named.confidence("A dog.", -1.0, right) == pytest.approx(0.9, abs=1e-3)
    assert named.confidence("A dog.", -1.0, wrong) == pytest.approx(0.02, abs=1e-3)
    assert witness().confidence("A dog.", -1.0, right) is None  # not calibrated


def test_a_text_is_weighed_by_what_it_names() -> None:
    weights = witness().weights_of_evidence("Is there a dog on grass?", scores(dog=0.5, grass=0.02))
    assert weights == pytest.approx([2.0, log_odds(0.02) + 2.0])


def test_evidence_tells_kin_from_strangers() -> None:
    named = witness()
    kin = named.evidence("A dog.", -2.0, scores(cat=0.9))
    stranger = named.evidence("A dog.", -2.0, scores(car=0.9))
    assert kin[[3, 4, 6]].tolist() == [0, 1, 1] and stranger[[3, 4, 6]].tolist() == [0, 0, 1]
    everything = named.evidence("A dog.", -2.0, np.full(6, 0.2, np.float32))
    assert everything[5] > 0.1 > np.log(0.9) > named.evidence("A dog.", -2.0, scores(car=0.7))[5]
    assert named.evidence("It is.", -2.0, scores())[1] == pytest.approx(log_odds(0.0))


def test_where_the_particular_is_not_sure_the_general_may_be() -> None:
    assert witness().general(scores(dog=0.4, cat=0.4, grass=0.8)) == "an animal on grass"
    assert witness().general(scores(grass=0.9)) is None  # a place alone is no answer
    assert witness().general(scores(sky=0.9, car=0.3)) == "the sky"
    assert witness().general(scores(sky=0.9, car=0.7)) == "a vehicle"
    assert witness().general(scores()) is None


def test_captions_carry_it(make_pair: Callable[..., Any], tmp_path: Any) -> None:
    pair = make_pair(concepts=9, concept_classes=13, concept_tokens=4)
    image = pair.image()["vision_features"][0]
    plain = pair.bitmar.caption(pair.bitmar.encode_image(features=image))
    assert plain.confidence is None and not plain.doubtful
    weights = np.array([0, 0, 0, 0, 0, 0, -3], np.float32)
    with_tensors(pair.bitmar.container, {CONFIDENCE: weights}, tmp_path / "sure.bitmar")
    sure = load(tmp_path / "sure.bitmar", engine="numpy")
    caption = sure.caption(sure.encode_image(features=image))
    assert caption == plain and caption.confidence == pytest.approx(1 / (1 + np.exp(3))) and caption.doubtful
    assert sure.generate("the", sure.encode_image(features=image)).confidence is None  # no caption
