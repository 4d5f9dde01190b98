"""The traced engine is the engine: same numbers out, and weights that are the ones it used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bitmar.api import BitMar
from bitmar.plots.trace import Tracer
from bitmar.runtime.engine import Engine

IDS = np.array([1, 50, 60, 70, 80, 90])


def test_tracing_changes_nothing(model: BitMar, picture: Image.Image) -> None:
    image = model.encode_image(picture)
    plain, traced = Engine(model.container), Tracer(model.container)._engine
    hidden = [engine.start(image).forward(IDS[None]) for engine in (plain, traced)]
    np.testing.assert_array_equal(*hidden)


def test_weights_are_shares_and_causal(model: BitMar, picture: Image.Image) -> None:
    trace = Tracer(model.container).run(IDS, model.encode_image(picture))
    assert len(trace.encoder) == 1 and len(trace.decoder) == 2
    for weights in (*trace.encoder, *trace.decoder):
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
        assert (np.triu(weights, 1) == 0).all()
    assert trace.vision is not None and trace.vision.shape == (6, 4)
    assert trace.reads is not None and trace.reads.shape == (6, 5)
    np.testing.assert_allclose(trace.vision.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(trace.reads.sum(axis=1), 1, atol=1e-5)


def test_reads_are_those_of_the_memory_that_is_given(model: BitMar) -> None:
    slots = np.zeros((1, 5, 6), np.float32)
    trace = Tracer(model.container).run(IDS, memory=model.remember("x")._replace(slots=slots, usage=np.ones((1, 5))))
    assert trace.reads is not None and trace.vision is None
    np.testing.assert_allclose(trace.reads, 1 / 5, atol=1e-6)  # nothing to tell slots of zeros apart by


def test_several_segments_are_one_table(make_model: Callable[..., BitMar], model: BitMar) -> None:
    short = make_model(replace(model.config, memory_segment=2))
    trace = Tracer(short.container).run(IDS)
    assert trace.reads is not None and trace.reads.shape == (6, 5)


def test_what_is_too_long_is_cut_to_the_window(make_model: Callable[..., BitMar], model: BitMar) -> None:
    narrow = make_model(replace(model.config, attention_sinks=1, attention_window=3))
    assert Tracer(narrow.container).run(IDS).decoder[0].shape == (4, 4)


@pytest.mark.parametrize("integration", ["add", "off"])
def test_other_integrations(make_model: Callable[..., BitMar], model: BitMar, integration: str) -> None:
    other = make_model(replace(model.config, memory_integration=integration))
    assert (Tracer(other.container).run(IDS).reads is None) == (integration == "off")
