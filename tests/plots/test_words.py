"""Words of tokens, and what the model attends to for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError, ImageError
from bitmar.plots.words import group_words, trace_caption


def test_pieces_become_words() -> None:
    words, spans = group_words(["A", " black", " d", "og", " .", " It", "'s"])
    assert words == ["A", "black", "dog", ".", "It", "'s"] and spans[2] == (2, 4)


@given(st.lists(st.text(alphabet="ab .", min_size=1, max_size=4), max_size=12))
def test_no_letter_is_lost_and_no_token_counted_twice(pieces: list[str]) -> None:
    words, spans = group_words(pieces)
    assert "".join("".join(words).split()) == "".join("".join(pieces).split())
    assert all(word for word in words)
    assert all(a < b for a, b in spans) and all(b <= c for (_, b), (c, _) in pairwise(spans))


def test_every_row_is_a_share(model: BitMar, picture: Image.Image) -> None:
    trace = trace_caption(model, picture, text="a dog runs")
    assert trace.words == ["a", "dog", "runs"] and trace.caption == "a dog runs"
    assert trace.vision.shape == (3, 2, 2) and trace.text.shape == (3, 4)
    np.testing.assert_allclose(trace.vision.sum(axis=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(trace.text.sum(axis=1), 1, atol=1e-5)
    assert trace.reads is not None
    np.testing.assert_allclose(trace.reads.sum(axis=1), 1, atol=1e-5)


def test_the_first_word_is_written_behind_the_begin_token(model: BitMar, picture: Image.Image) -> None:
    trace = trace_caption(model, picture, text="a b")
    np.testing.assert_allclose(trace.text[0], [1, 0, 0], atol=1e-6)


def test_probabilities_are_the_models(model: BitMar, picture: Image.Image) -> None:
    trace = trace_caption(model, picture, text="a dog")
    exact = model.score("a dog", picture)
    np.testing.assert_allclose(trace.log_probabilities, [exact[0], exact[1:].sum()], rtol=1e-4)


def test_the_models_own_caption(model: BitMar, picture: Image.Image) -> None:
    trace = trace_caption(model, picture, max_tokens=6)
    assert "".join(trace.words) == "".join(model.caption(picture, max_tokens=6).split())


def test_slots_say_what_was_remembered(model: BitMar, picture: Image.Image) -> None:
    session = model.memory()
    session.remember("our dog Rex", picture)
    assert list(trace_caption(model, picture, text="a", session=session).slots.values()) == ["our dog Rex"]


def test_what_cannot_be_traced(make_model: Callable[..., BitMar], model: BitMar, picture: Image.Image) -> None:
    with pytest.raises(ConfigError, match="empty"):
        trace_caption(model, picture, text=" ")
    with pytest.raises(ImageError, match="no vision tower"):
        trace_caption(make_model(replace(model.config, vision_tower=None)), picture)
