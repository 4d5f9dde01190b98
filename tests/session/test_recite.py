"""What was remembered with a picture is said again, if it is sure and if the caller wants it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar.api import BitMar, load
from bitmar.core.errors import ConfigError
from bitmar.session.calibrate import LEAST, background, pooled_views, with_background
from bitmar.session.layout import Episode
from bitmar.session.recite import SURE, as_sentence, rest_of, to_recite
from bitmar.session.session import Recalled


def picture(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((60, 50), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def path(make_pair: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, calibrated."""
    file = tmp_path_factory.mktemp("calibrated") / "m.bitmar"
    shutil.copy(make_pair(tower="two stages").bitmar.path, file)
    plain = load(file)
    views = (pooled_views(plain, picture(i), np.random.default_rng(i)) for i in range(LEAST))
    return with_background(plain.container, background(views), file)


@pytest.fixture(params=["numpy", "native"])
def model(path: Path, request: pytest.FixtureRequest) -> BitMar:
    if request.param == "native":
        pytest.importorskip("bitmar._native", reason="the native engine was not built")
    return load(path, engine="numpy" if request.param == "numpy" else None)


def test_a_name_is_said_as_a_sentence_and_nothing_is_added(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("our dog Rex", picture(1000))
    written = model.generate("", picture(1000), memory=memory, max_tokens=40)
    assert (written.text, written.recited, written.finish_reason) == ("Our dog Rex.", len("Our dog Rex"), "stop")
    assert written.recalled is not None and written.recalled.episode.text == "our dog Rex"
    assert model.tokenizer.decode(list(written.tokens)) == written.text
    assert "".join(model.stream("", picture(1000), memory=memory, max_tokens=40)) == written.text
    assert model.caption(picture(1000), memory=memory, beams=2) == "Our dog Rex."


def test_it_can_be_switched_off(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("our dog Rex", picture(1000))
    image, state = model.encode_image(picture(1000)), memory.state_for(model)
    written = model.generate("", image, memory=memory, recite=False, max_tokens=12)
    assert written.recited == 0 and written.recalled is not None
    assert written.tokens == model.generate("", image, memory=state, max_tokens=12).tokens


def test_a_strange_picture_recites_nothing(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("our dog Rex", picture(1000))
    strangers = [model.generate("", picture(seed), memory=memory, max_tokens=2) for seed in range(2000, 2060)]
    assert sum(written.recited > 0 for written in strangers) <= 3  # one in a hundred is expected


def test_a_whole_sentence_is_all_that_is_said(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("Rex loves the beach!", picture(1000))
    written = model.generate("", picture(1000), memory=memory)
    assert (written.text, written.finish_reason) == ("Rex loves the beach!", "stop")


def test_the_prompt_counts_as_begun(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("our dog Rex on the beach.", picture(1000))
    assert model.complete("This is our dog", picture(1000), memory=memory) == " Rex on the beach."
    assert model.generate("A red car", picture(1000), memory=memory, max_tokens=5).recited == 0


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_photo_is_known(model: BitMar, turn: int) -> None:
    memory = model.memory()
    memory.remember("our dog Rex", picture(1000))
    assert model.caption(picture(1000).rotate(turn, expand=True), memory=memory) == "Our dog Rex."


def test_a_correction_takes(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("our dog Rex", picture(1000))
    memory.remember("our dog Max", picture(1000))
    assert model.caption(picture(1000), memory=memory) == "Our dog Max."


@pytest.mark.parametrize("most", [1, 2, 5])
def test_never_more_tokens_than_asked(model: BitMar, most: int) -> None:
    memory = model.memory()
    memory.remember("a very long text about the dog", picture(1000))
    written = model.generate("", picture(1000), memory=memory, max_tokens=most)
    assert len(written.tokens) == most and written.finish_reason == "length"
    assert "A very long text about the dog".startswith(written.text)


def test_a_sentence_that_was_cut_has_not_ended(model: BitMar) -> None:
    memory = model.memory()
    memory.remember("Rex loves the beach.", picture(1000))
    written = model.generate("", picture(1000), memory=memory, max_tokens=3)
    assert written.finish_reason == "length" and written.recited == len(written.text) < len("Rex loves the beach.")


def test_another_models_memory_is_refused(model: BitMar, make_pair: Callable[..., Any]) -> None:
    other = make_pair(tower="two stages", hidden_size=24, memory_dim=10, memory_slots=4).bitmar
    with pytest.raises(ConfigError, match="another model"):
        model.caption(picture(1000), memory=other.memory())


def test_watching_for_long_takes_no_room(model: BitMar) -> None:
    """A camera that captions every frame notes each episode once, the latest last."""
    memory = model.memory()
    for seed in (1000, 2000):
        memory.remember(image=picture(seed))
    for seed in [1000, 2000] * 20 + [1000]:
        model.generate("", picture(seed), memory=memory, max_tokens=1)
    assert list(memory._uses) == [1, 0]


@pytest.mark.parametrize(
    ("remembered", "begun", "rest"),
    [
        ("our dog Rex", "", "Our dog Rex"),
        ("our dog Rex", "  ", "Our dog Rex"),
        ("our dog Rex", "This is our dog", " Rex"),
        ("our dog Rex", "This is our dog ", "Rex"),
        ("our dog Rex", "This is Our Dog,", " Rex"),
        ("our dog Rex", "a cat", ""),
        ("our dog Rex", "here is Rex", ""),
        ("the dog saw the dog Rex", "look, the dog", " saw the dog Rex"),  # of equal matches the first
        ("", "", ""),
        ("!", "our", ""),
    ],
)
def test_what_is_left_to_say(remembered: str, begun: str, rest: str) -> None:
    assert rest_of(remembered, begun) == rest


@pytest.mark.parametrize(("confidence", "said"), [(None, ""), (SURE - 0.01, ""), (SURE, "Rex"), (1.0, "Rex")])
def test_only_what_is_sure(confidence: float | None, said: str) -> None:
    assert to_recite(Recalled(Episode(0, "Rex", 0.0, None, 1.0), 0.9, None, confidence)) == said
    assert to_recite(None) == ""


@pytest.mark.parametrize(
    ("words", "sentence", "copied"),
    [
        ("Our dog Rex", "Our dog Rex.", 11),
        ("Our dog Rex, ", "Our dog Rex.", 11),
        ("Our dog Rex -", "Our dog Rex.", 11),
        ("Is it Rex?", "Is it Rex?", 10),
        ('He said "Rex!" ', 'He said "Rex!"', 14),
        ("Rex\u2026", "Rex\u2026", 4),
        ("\u72ac\u3002", "\u72ac\u3002", 2),
        (" Rex", " Rex.", 4),
        ("", "", 0),
        (" - ", "", 0),
    ],
)
def test_it_ends_as_a_sentence(words: str, sentence: str, copied: int) -> None:
    assert as_sentence(words) == (sentence, copied)
