"""Sessions with more episodes, or fewer slots, than the model has slots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar import BitMar
from bitmar.core.errors import ConfigError
from bitmar.runtime.memory import MemoryState
from bitmar.session.session import Session

from ._pictures import SLOTS, picture


def crowd(model: BitMar, count: int = 3 * SLOTS, slots: int = 50) -> Session:
    memory = model.memory(slots=slots)
    for i in range(count):
        memory.remember(f"number {i}", picture(i))
    return memory


def test_recall_searches_all_slots(model: BitMar) -> None:
    memory = crowd(model)
    assert len(memory) == 3 * SLOTS and memory.stats()["slots"] == 50
    for i in range(3 * SLOTS):
        found = memory.recall(image=picture(i), k=3)
        assert found[0].episode.text == f"number {i}" and len(found) == 3
        assert memory.recall(text=f"number {i}")[0].episode.text == f"number {i}"


def test_a_model_reads_the_episodes_that_equation_2_weighs_most(model: BitMar) -> None:
    memory, room = crowd(model), model.config.memory_slots
    live = memory.file.live()
    values, usage = memory.file.column("value", live), memory.file.usage()
    everything = MemoryState(values[None], usage[live][None])
    for seed in range(3):
        image = model.encode_image(picture(seed))
        query = model.query("", image)
        state, source = memory.reading(model, lambda q=query: q)
        assert state.slots.shape == (1, room, model.config.memory_dim)
        weights = memory._slots.memory.read_weights(query[None, None], everything)[0, 0]
        assert set(source) == set(np.argsort(-weights)[:room].tolist())
        np.testing.assert_array_equal(state.slots[0], values[source])
        np.testing.assert_array_equal(state.usage[0], usage[source])
        read = model.read_weights("", image, memory=memory)
        assert read.shape == (50,) and read.sum() == pytest.approx(1, abs=1e-5)
        assert set(np.flatnonzero(read)) <= set(source.tolist())
        begin = [model.config.bos_token_id]
        expected = model.logits(begin, image, memory=state)
        np.testing.assert_array_equal(model.logits(begin, image, memory=memory), expected)
    latest = memory.reading(model).source  # without a query, those used last
    assert set(latest) == set(range(3 * SLOTS - room, 3 * SLOTS))


def test_what_comes_later_does_not_choose_what_is_read(model: BitMar) -> None:
    memory, image = crowd(model), model.encode_image(picture(1))
    one, other = ([model.config.bos_token_id, 5, 6, last] for last in (7, 9))
    for seen in (None, image):
        first, second = (model.logits(ids, seen, memory=memory) for ids in (one, other))
        np.testing.assert_array_equal(first[:3], second[:3])


def test_captions_texts_and_streams_read_a_crowded_memory(model: BitMar) -> None:
    memory = crowd(model)
    written = model.generate("", picture(2), memory=memory, max_tokens=3)
    assert written.recalled is not None and written.recalled.episode.text == "number 2"
    model.complete("number", memory=memory, max_tokens=3)
    list(model.read("number " * 200, memory=memory, remember=True))
    assert len(memory) > 3 * SLOTS
    assert model.remember("a text", memory=memory).slots.shape[1] == model.config.memory_slots


def test_a_memory_that_has_grown_reads_as_before(model: BitMar, tmp_path: Path) -> None:
    path = tmp_path / "home.mem"
    with model.memory(path) as memory:
        for i in range(SLOTS - 2):
            memory.remember(f"number {i}", picture(i))
        memory.forget(1)
        found = memory.recall(image=picture(3), k=9)
    before = model.memory(path).state_for(model)
    grown = model.memory(path, slots=40)
    assert grown.stats()["slots"] == SLOTS  # until it is written
    grown.file.begin()
    assert grown.stats()["slots"] == 40
    for a, b in zip(grown.state_for(model), before, strict=True):
        np.testing.assert_array_equal(a, b)
    again = grown.recall(image=picture(3), k=9)
    assert [one.episode.slot for one in again] == [one.episode.slot for one in found]
    assert [one.score for one in again] == [one.score for one in found]
    for i in range(SLOTS, 3 * SLOTS):
        grown.remember(f"number {i}", picture(i))
    grown.forget(*range(2, 2 * SLOTS))
    state, source = grown.reading(model)  # few again, in slots that the model does not have
    assert len(set(source.tolist())) == len(source) and set(grown.file.live()) <= set(source.tolist())
    assert state.slots.shape[1] == model.config.memory_slots
    grown.close()
    assert len(model.memory(path)) == len(grown) and model.memory(path, slots=8).stats()["slots"] == 40


def test_a_memory_with_fewer_slots_than_the_model(model: BitMar, tmp_path: Path) -> None:
    with model.memory(tmp_path / "small.mem", slots=2) as memory:
        for i in range(4):
            memory.remember(f"number {i}", picture(i))
    again = model.memory(tmp_path / "small.mem")
    assert len(again) == 2 and again.state_for(model).slots.shape[1] == model.config.memory_slots
    assert len(model.read_weights("a", memory=again)) == model.config.memory_slots


@pytest.mark.parametrize("slots", [0, -1, 65537, 1.5, True, "8"])
def test_numbers_of_slots_that_no_memory_has(model: BitMar, slots: object) -> None:
    with pytest.raises(ConfigError, match="1 to 65536"):
        model.memory(slots=slots)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["new", "new", "forget", "correct"]), st.integers(0, 15)), max_size=30))
@settings(max_examples=25)
def test_a_session_that_is_open_recalls_as_one_that_is_opened(model: BitMar, steps: list[tuple[str, int]]) -> None:
    memory = model.memory(slots=12)
    for what, i in steps:
        if what == "forget" and i < 12 and i in memory.file.live():
            memory.forget(i)
        elif what != "forget":
            memory.remember(f"{what} {i}", picture(i))
        again = model.memory(slots=12)
        again.file.pages.data = bytearray(memory.file.pages.data)  # type: ignore[union-attr]
        for asked in ({"image": picture(3)}, {"text": f"new {i}"}):
            now, fresh = memory.recall(**asked, k=4), again.recall(**asked, k=4)  # type: ignore[arg-type]
            assert [one.episode.text for one in now] == [one.episode.text for one in fresh]
            for one, other in zip(now, fresh, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-6) and one.confidence == other.confidence
