"""What wrong, blank and no pictures cost."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.coco_metrics import tokenize
from bitmar.evaluate.tasks.grounding import blank_picture, compare_captions, measure_likelihood

from ..fakes import FakeScorer

PICTURES = [np.full((2, 2, 3), i, np.uint8) for i in range(5)]
CAPTIONS = [[f"Number {i}.", f"It is {i}."] for i in range(5)]
BLANK = np.full((2, 2, 3), 200, np.uint8)


def looks(text: str, image: Any) -> list[float]:
    """Two nats a token without a picture, one beside the right one, four beside a wrong one, three beside the blank."""
    cost = 2.0
    if image is not None:
        cost = 3.0 if image[0, 0, 0] == 200 else 1.0 if str(image[0, 0, 0]) in text else 4.0
    return [-cost] * len(text.split())


def test_every_condition_costs_what_it_costs() -> None:
    seen: list[int] = []
    found, captions, tokens = measure_likelihood(FakeScorer(looks), PICTURES, CAPTIONS, BLANK, on_progress=seen.append)
    assert (captions, tokens, seen[-1]) == (10, 25, 40) and seen == sorted(seen)
    assert found["right"].perplexity.value == pytest.approx(np.e) and found["right"].loss is None
    for name, loss in {"shuffled": 3, "blank": 2, "none": 1}.items():
        beside = found[name]
        assert beside.loss is not None and beside.loss.value == beside.loss.low == pytest.approx(loss)
        assert beside.perplexity.value == pytest.approx(np.exp(1 + loss)) and beside.right_wins == 1
    json.dumps({name: asdict(beside) for name, beside in found.items()})


def test_a_blind_model_loses_nothing() -> None:
    found, _, _ = measure_likelihood(FakeScorer(lambda text, image: [-2.0] * 3), PICTURES, CAPTIONS, BLANK)
    for name in ("shuffled", "blank", "none"):
        assert found[name].right_wins == 0.5 and found[name].loss == found["none"].loss
        assert found[name].loss is not None and found[name].loss.value == 0


def test_there_must_be_something_to_shuffle() -> None:
    with pytest.raises(DataError, match="at least two"):
        measure_likelihood(FakeScorer(looks), PICTURES[:1], CAPTIONS[:1], BLANK)
    with pytest.raises(DataError, match="no words"):
        measure_likelihood(FakeScorer(looks), PICTURES[:2], [["..."], [""]], BLANK)


def test_the_blank_picture_is_of_the_same_kind() -> None:
    features = blank_picture(np.ones((9, 14), np.float32))
    assert isinstance(features, np.ndarray) and features.shape == (9, 14) and not features.any()
    assert np.asarray(blank_picture(PICTURES[0])).std() == 0


@pytest.mark.skipif(shutil.which("java") is None, reason="the COCO tokenizer needs Java")
def test_cider_of_the_wrong_picture() -> None:
    pytest.importorskip("pycocoevalcap")
    words = ["dog on a beach", "man in the snow", "child at a table", "car in the street", "horse behind a fence"]
    references = tokenize([[f"A {word}.", f"There is a {word}!"] for word in words])
    captions = tokenize([[f"A {word}."] for word in words])
    found = compare_captions(captions, references, tokenize([["A dog on a beach."]])[0])
    assert found["right"].loss is None and found["right"].cider.low > 5
    for name in ("shuffled", "blank"):
        loss = found[name].loss
        assert loss is not None and loss.low > 0
        assert found["right"].cider.value - found[name].cider.value == pytest.approx(loss.value)
    assert found["blank"].cider.value > found["shuffled"].cider.value  # it is right of one photo
