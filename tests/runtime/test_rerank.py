"""Of several captions the one that the photo bears out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitmar
from bitmar.core.vocabulary import Vocabulary
from bitmar.generation import Writing
from bitmar.runtime.rerank import plainer, worth

NAMES = Vocabulary(("cat", "laptop", "cup", "grass"))


def scores(**found: float) -> Any:
    return np.array([found.get(name, 0.01) for name in NAMES.names], np.float32)


def test_what_the_photo_shows_is_worth_saying_and_nothing_else_is() -> None:
    seen = scores(cat=0.99, grass=0.6)
    ranked = ["A cat on the grass.", "A cat.", "A cat on a laptop.", "A laptop."]
    values = [worth(caption, 0.0, seen, NAMES) for caption in ranked]
    assert values == sorted(values, reverse=True) and values[-1] < 0 < values[0]


def test_a_thing_named_twice_is_a_false_claim() -> None:
    seen = scores(cup=0.99)
    assert worth("A cup on a cup.", 0.0, seen, NAMES) == pytest.approx(worth("A cup.", 0.0, seen, NAMES) - 0.5)


def test_a_caption_can_do_without_a_word_that_nothing_can_bear_out() -> None:
    assert plainer("There is a cat arrangement on the grass.", NAMES) == "There is a cat on the grass."
    assert plainer("A cat arrangement.", NAMES) == "A cat."
    assert plainer("A strange cat.", NAMES) is None and plainer("A cat on a laptop.", NAMES) is None


def test_of_two_that_claim_the_same_the_likelier_is_taken() -> None:
    seen = scores(cat=0.99)
    assert worth("A cat.", -5.0, seen, NAMES) > worth("Cat a.", -30.0, seen, NAMES)


@pytest.fixture(scope="module")
def photo() -> Any:
    """A cat that greedy decoding puts on a laptop."""
    skimage = pytest.importorskip("skimage", reason="the photo comes with scikit-image")
    return Path(skimage.__file__).parent / "data" / "chelsea.png"


def test_a_caption_is_chosen_unless_another_way_is_asked_for(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bitmar.load()
    assert model.witness is not None
    image = model.image_tokens(photo)
    chosen = model.caption(image)
    assert chosen == "".join(model.stream("", image, max_tokens=32)) and chosen.confidence is not None

    def value(caption: str) -> float:
        tokens = model.tokenizer.encode(caption, add_special_tokens=False).ids
        likely = (len(tokens) + 1) * model.likelihood(tokens, image)
        return worth(caption, likely, image.concepts, model.witness.vocabulary)  # type: ignore[arg-type, union-attr]

    assert value(chosen) >= max(value(model.caption(image, beams=beams)) for beams in (1, 4))

    def refuse(*_: Any) -> Any:
        raise AssertionError("not asked for")

    monkeypatch.setattr(Writing, "_borne_out", refuse)
    for other in ({"beams": 1}, {"beams": 2}, {"temperature": 0.7, "seed": 1}):
        assert model.caption(image, **other)  # type: ignore[arg-type]
    assert model.complete("A cat", image) and model.complete("A cat")


def test_a_short_caption_has_no_room_for_a_beginning(photo: Path) -> None:
    written = bitmar.load().generate("", photo, max_tokens=2)
    assert len(written.tokens) <= 2 and written.finish_reason in ("length", "stop")


def test_a_word_that_nothing_can_bear_out_costs() -> None:
    seen = scores(cat=0.99)
    plain, adorned = (
        worth(caption, 0.0, seen, NAMES) for caption in ("There is a cat.", "There is a cat arrangement.")
    )
    assert 0 < plain - adorned < 0.5
