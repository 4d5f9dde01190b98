"""Sessions: remembered at once, recalled honestly, read by the model, kept in a file, moved between models."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bitmar import BitMar
from bitmar.core.errors import ConfigError, ImageError, MemoryFileError
from bitmar.runtime.memory import MemoryState
from bitmar.session.recall import FEW, Index, KeySpace, Words
from bitmar.session.session import Session, thumbnail_hash

SLOTS = 8  # of the tiny models


@pytest.fixture(scope="module")
def model(make_pair: Callable[..., Any]) -> BitMar:
    return make_pair(tower="two stages").bitmar


@pytest.fixture(scope="module")
def other(make_pair: Callable[..., Any]) -> BitMar:
    """Another model of another width."""
    return make_pair(tower="two stages", memory_dim=10, memory_slots=4).bitmar


def picture(seed: int, size: tuple[int, int] = (60, 50)) -> Image.Image:
    """Smooth colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_an_episode_is_there_at_once_and_after_reopening(model: BitMar, tmp_path: Path) -> None:
    path = tmp_path / "home.mem"
    with model.memory(path) as memory:
        made = [memory.remember(f"the thing number {i}", picture(i)) for i in range(5)]
        assert [episode.slot for episode in made] == list(range(5)) and len(memory) == 5
    for session in (memory, model.memory(path)):
        for i in range(5):
            (best,) = session.recall(image=picture(i))
            assert best.episode.text == f"the thing number {i}" and best.score > 0.99
            assert best.margin is not None and best.margin > 0
            assert best.episode.photo == made[i].photo and best.episode.time == made[i].time
    assert [episode.slot for episode in model.memory(path).inspect()] == [4, 3, 2, 1, 0]


def test_a_text_finds_its_words(model: BitMar) -> None:
    memory = model.memory()
    for text in ("our dog Rex", "the old car", "a cup of tea"):
        memory.remember(text)
    found = memory.recall(text="where is rex?", k=9)
    assert found[0].episode.text == "our dog Rex" and len(found) == 3
    assert found[0].score == max(one.score for one in found)
    assert found[0].margin == pytest.approx(found[0].score - found[1].score)
    assert found[1].margin == pytest.approx(found[1].score - found[0].score)
    assert memory.recall(image=picture(0)) == []  # none of them has a photo


def test_pictures_find_pictures_and_texts_find_texts(model: BitMar) -> None:
    memory = model.memory()
    memory.remember(image=picture(1))
    memory.remember("words alone")
    assert [one.episode.slot for one in memory.recall(image=picture(1), k=5)] == [0]
    assert [one.episode.slot for one in memory.recall(text="words", k=5)] == [1]
    assert memory.recall(image=picture(1))[0].margin is None


def test_an_empty_memory(model: BitMar, tmp_path: Path) -> None:
    for memory in (model.memory(), model.memory(tmp_path / "none.mem")):
        assert memory.recall(text="anything") == [] and memory.recall(image=picture(0)) == []
        assert memory.inspect() == [] and len(memory) == 0 and memory.stats()["episodes"] == 0
        memory.close()
    assert not (tmp_path / "none.mem").exists()
    ids = [model.config.bos_token_id, 5, 6]
    np.testing.assert_allclose(model.logits(ids, memory=memory), model.logits(ids), atol=1e-5)


def test_what_cannot_be_remembered_or_asked(model: BitMar) -> None:
    memory = model.memory()
    for text in ("", "  \n"):
        with pytest.raises(ConfigError, match="nothing to remember"):
            memory.remember(text)
        with pytest.raises(ConfigError, match="a photo or a text"):
            memory.recall(text=text)
    for blank in (Image.new("RGB", (50, 40), "green"), Image.new("L", (3, 3), 0)):
        with pytest.raises(ImageError, match="one colour"):
            memory.remember("blank", blank)
        with pytest.raises(ImageError, match="one colour"):
            memory.recall(image=blank)
    with pytest.raises(ConfigError, match="not both"):
        memory.recall(image=picture(0), text="both")
    with pytest.raises(ConfigError, match="at least 1"):
        memory.recall(text="x", k=0)
    with pytest.raises(ImageError, match="not a picture"):
        memory.remember("x", b"no picture")
    assert len(memory) == 0


def test_the_least_used_is_overwritten_and_named(model: BitMar) -> None:
    memory = model.memory()
    for i in range(SLOTS):
        memory.remember(f"number {i}", picture(i))
    assert memory.recall(image=picture(0))[0].episode.slot == 0  # used now, so 1 is the least used
    after = memory.remember("the newcomer", picture(99))
    assert after.slot == 1 and after.lost is not None and after.lost[0] == "number 1"
    assert after.change == "new" and memory.inspect()[0] == replace(after, change=None) and after.usage == 1
    assert memory.recall(image=picture(99))[0].episode == replace(after, change=None)


def test_many_more_episodes_than_slots(model: BitMar) -> None:
    memory = model.memory()
    images = [model.encode_image(picture(i)) for i in range(3 * SLOTS)]
    for i, image in enumerate(images):
        memory.remember(f"number {i}", image)
    for i in range(2 * SLOTS, 3 * SLOTS):
        assert memory.recall(image=images[i])[0].episode.text == f"number {i}"


def test_forgetting(model: BitMar, tmp_path: Path) -> None:
    memory = model.memory(tmp_path / "home.mem")
    for i in range(3):
        memory.remember(f"secret {i}", picture(i))
    memory.forget(0, 2)
    assert [episode.text for episode in memory.inspect()] == ["secret 1"]
    assert memory.recall(image=picture(0))[0].episode.text == "secret 1"
    data = (tmp_path / "home.mem").read_bytes()
    assert b"secret 1" in data and b"secret 0" not in data and b"secret 2" not in data
    with pytest.raises(MemoryFileError, match="holds nothing"):
        memory.forget(0)


@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_the_model_reads_it(make_pair: Callable[..., Any], engine: str) -> None:
    pair = make_pair(tower="two stages")
    model = pair.bitmar if engine == "numpy" else pair.native()
    memory, image = model.memory(), model.encode_image(picture(1))
    memory.remember("the dog runs", image)
    query = model.engine.start(image).query(model._prompt("the dog runs"))
    state = memory.state_for(model)
    np.testing.assert_allclose(state.slots[0, 0], query, atol=2e-3)  # float16
    np.testing.assert_array_equal(state.slots[0, 1:], model.container.tensors["model.memory.slots"][1:])
    ids = [model.config.bos_token_id, 5, 6]
    with_it, without = model.logits(ids, image, memory=memory), model.logits(ids, image)
    np.testing.assert_array_equal(with_it, model.logits(ids, image, memory=state))
    assert np.abs(with_it - without).max() > 1e-3
    options: dict[str, Any] = {"memory": memory, "max_tokens": 5}
    written = model.generate("the", image, **options)
    assert model.complete("the", image, **options) == written.text
    assert "".join(model.stream("the", image, **options)) == written.text
    assert model.caption(image, beams=2, **options) == model.caption(image, beams=2, memory=state, max_tokens=5)
    assert len(memory) == 1  # read, not written


def test_a_memory_of_another_model(model: BitMar, other: BitMar, tmp_path: Path) -> None:
    with model.memory(tmp_path / "home.mem") as memory:
        memory.remember("mine")
    with pytest.raises(MemoryFileError, match="another model"):
        other.memory(tmp_path / "home.mem")
    with pytest.raises(ConfigError, match="another model"):
        other.complete("the", memory=memory)


def test_a_model_without_a_memory(make_pair: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no memory"):
        make_pair(memory_integration="off").bitmar.memory()


def test_a_memory_of_one_slot(make_pair: Callable[..., Any]) -> None:
    model = make_pair(tower="two stages", memory_slots=1).bitmar
    memory = model.memory()
    memory.remember("first", picture(0))
    assert memory.remember("second", picture(1)).lost is not None
    (best,) = memory.recall(image=picture(0), k=3)
    assert best.episode.text == "second" and best.margin is None and best.confidence is None
    model.caption(picture(1), memory=memory, max_tokens=3)


def test_one_writes_and_others_read(model: BitMar, tmp_path: Path) -> None:
    path = tmp_path / "home.mem"
    with model.memory(path) as writer:
        writer.remember("the first one", picture(0))
        reader = model.memory(path)
        assert reader.recall(image=picture(0))[0].episode.text == "the first one"
        with pytest.raises(MemoryFileError, match="another program"):
            reader.remember("too")
        writer.remember("the second one", picture(1))
        assert reader.recall(image=picture(1))[0].episode.text == "the second one"
        reader.close()  # its uses cannot be noted now, which is no error
    reader.remember("now it can")
    assert len(writer) == 3


def test_recalls_are_noted_in_the_file(model: BitMar, tmp_path: Path) -> None:
    path = tmp_path / "home.mem"
    with model.memory(path) as memory:
        for i in range(SLOTS):
            memory.remember(f"number {i}", picture(i))
    with model.memory(path) as memory:
        memory.recall(image=picture(0))
    assert model.memory(path).remember("new").slot == 1


def test_no_folder(model: BitMar, tmp_path: Path) -> None:
    with pytest.raises(MemoryFileError, match="there is no folder"):
        model.memory(tmp_path / "card" / "home.mem")


# The same again.


def test_a_correction_takes_the_same_slot(model: BitMar) -> None:
    memory = model.memory()
    assert memory.remember("Rex", picture(0)).change == "new"
    corrected = memory.remember("Max", picture(0))
    assert (corrected.slot, corrected.change, corrected.lost and corrected.lost.text) == (0, "updated", "Rex")
    assert len(memory) == 1 and memory.recall(image=picture(0))[0].episode.text == "Max"
    assert memory.recall(text="Max")[0].episode.text == "Max"


def test_the_same_again_changes_nothing_but_its_use(model: BitMar) -> None:
    memory = model.memory()
    first = memory.remember("Rex", picture(0))
    memory.remember("something else", picture(1))
    for text in ("Rex", " Rex ", ""):
        again = memory.remember(text, picture(0))
        assert (again.slot, again.change, again.text, again.time) == (0, "unchanged", "Rex", first.time)
    assert len(memory) == 2 and again.usage == 1
    assert memory.remember("words alone").change == "new"
    assert memory.remember("words alone").change == "unchanged" and len(memory) == 3
    long = "a long text " * 100
    assert memory.remember(long, picture(2)).cut and memory.remember(long, picture(2)).change == "unchanged"


def test_prepared_tokens_know_themselves(model: BitMar) -> None:
    memory, image = model.memory(), model.encode_image(picture(0))
    memory.remember("Rex", image)
    assert memory.remember("Max", image).change == "updated" and len(memory) == 1
    assert memory.remember("Tom", model.encode_image(picture(1))).change == "new"


def test_of_one_photo_the_later_text_is_imported(model: BitMar, tmp_path: Path) -> None:
    old, new = model.memory(), model.memory()
    old.remember("Rex", picture(0))
    new.remember("Max", picture(0))
    old.export(tmp_path / "old.jsonl")
    new.export(tmp_path / "new.jsonl")
    assert old.import_(tmp_path / "new.jsonl").updated == 1 and old.recall(image=picture(0))[0].episode.text == "Max"
    assert new.import_(tmp_path / "old.jsonl").known == 1 and new.recall(image=picture(0))[0].episode.text == "Max"


# Threads, copies, permissions.


def test_threads_share_a_session(model: BitMar, tmp_path: Path) -> None:
    memory = model.memory(tmp_path / "home.mem")
    images = [model.encode_image(picture(i)) for i in range(SLOTS)]

    def work(number: int) -> None:
        for i in range(SLOTS)[number::2]:
            memory.remember(f"number {i}", images[i])
            memory.recall(image=images[i])
            memory.state_for(model)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    memory.close()
    again = model.memory(tmp_path / "home.mem")
    assert sorted(episode.text for episode in again.inspect()) == [f"number {i}" for i in range(SLOTS)]
    for i, image in enumerate(images):
        assert again.recall(image=image)[0].episode.text == f"number {i}"


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_session_says_why_it_is_not_copied(model: BitMar, copy: Callable[[Any], Any]) -> None:
    with pytest.raises(ConfigError, match=r"open the same path with model\.memory"):
        copy(model.memory())


@pytest.mark.parametrize("wait", [-1, float("nan"), float("inf"), "5", True])
def test_what_cannot_be_waited_for(model: BitMar, tmp_path: Path, wait: Any) -> None:
    with pytest.raises(ConfigError, match="how many seconds"):
        model.memory(tmp_path / "a.mem", wait=wait)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_files_are_their_owners_alone(model: BitMar, tmp_path: Path) -> None:
    memory = model.memory(tmp_path / "home.mem")
    memory.remember("secret")
    memory.export(tmp_path / "out.jsonl")
    memory.import_(tmp_path / "out.jsonl")  # rewrites the file
    for name in ("home.mem", "out.jsonl"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    (tmp_path / "open.jsonl").touch(0o644)
    memory.export(tmp_path / "open.jsonl")
    assert stat.S_IMODE((tmp_path / "open.jsonl").stat().st_mode) == 0o600


# More episodes than the model has slots.


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


# Moving.


def essence(session: Session) -> list[tuple[str, float, str | None]]:
    return sorted((episode.text, episode.time, episode.photo) for episode in session.inspect())


def test_export_and_import_are_inverse(model: BitMar, tmp_path: Path) -> None:
    memory, again = model.memory(), model.memory()
    memory.remember("with a photo", picture(0))
    memory.remember(image=picture(1))
    memory.remember("a text, ünïcode\nand lines")
    assert memory.export(tmp_path / "out.jsonl") == 3
    moved = again.import_(tmp_path / "out.jsonl")
    assert (moved.added, moved.known, moved.text_only, moved.left_out, moved.lost) == (3, 0, 0, 0, 0)
    assert essence(again) == essence(memory)
    np.testing.assert_array_equal(again.state_for(model).slots, memory.state_for(model).slots)
    assert again.recall(image=picture(1))[0].episode.text == ""
    assert again.import_(tmp_path / "out.jsonl").known == 3 and len(again) == 3


def test_another_model_takes_over_the_texts(model: BitMar, other: BitMar, tmp_path: Path) -> None:
    memory, theirs = model.memory(), other.memory()
    memory.remember("with a photo", picture(0))
    memory.remember(image=picture(1))
    memory.remember("a text alone")
    memory.export(tmp_path / "out.jsonl")
    moved = theirs.import_(tmp_path / "out.jsonl")
    assert (moved.added, moved.text_only, moved.left_out) == (2, 1, 1)
    assert theirs.recall(text="text alone")[0].episode.text == "a text alone"
    assert theirs.recall(image=picture(0)) == []


def test_merging_keeps_the_most_used(model: BitMar) -> None:
    one, two = model.memory(), model.memory()
    for i in range(SLOTS):
        one.remember(f"one {i}")
        two.remember(f"two {i}")
    moved = one.merge(two)
    assert (moved.added, moved.lost) == (SLOTS, SLOTS) and essence(one) == essence(two)
    assert one.merge(two).known == SLOTS


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: [{"format": "something else"}, *lines[1:]],
        lambda lines: [*lines, ["no object"]],
        lambda lines: [*lines, {**lines[1], "time": "noon"}],
        lambda lines: [*lines, {**lines[1], "time": 1e300}],
        lambda lines: [*lines, {**lines[1], "time": True}],
        lambda lines: [*lines, {**lines[1], "text": "half a character: \ud800"}],
        lambda lines: [lines[0], {**lines[1], "text": "first"}, {**lines[1], "text": "\udfff"}, *lines[1:]],
        lambda lines: [{**lines[0], "model": "ef" * 32}, lines[1], {**lines[1], "text": "\ud800"}],
        lambda lines: [*lines, {**lines[1], "photo": "xyz"}],
        lambda lines: [*lines, {**lines[1], "vectors": {"value": "!"}}],
        lambda lines: [*lines, {**lines[1], "vectors": {}}],
        lambda lines: [*lines, {**lines[1], "vectors": {"value": "AAAA"}}],
        lambda lines: [*lines, {**lines[1], "vectors": {**lines[1]["vectors"], "image": "AAAAAA=="}}],
    ],
)
def test_damaged_exports_change_nothing(model: BitMar, tmp_path: Path, change: Callable[[list[Any]], Any]) -> None:
    memory, path = model.memory(), tmp_path / "out.jsonl"
    memory.remember("one", picture(0))
    memory.export(path)
    lines = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    empty = model.memory()
    with pytest.raises(MemoryFileError, match=r"out\.jsonl: "):
        empty.import_(path)
    assert len(empty) == 0


# Recall's arithmetic.


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=50)
def test_a_key_resembles_itself_most(count: int, width: int, seed: int) -> None:
    keys = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    space = KeySpace(keys)
    scores = np.stack([space.resemblance(key) for key in keys])
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-6)
    assert scores.max() <= 1 + 1e-6 and np.isfinite(scores).all()
    np.testing.assert_allclose(scores, space.among(), atol=1e-6)


def test_equal_and_empty_keys_are_finite() -> None:
    for keys in (np.ones((20, 4), np.float32), np.zeros((20, 4), np.float32), np.zeros((1, 4), np.float32)):
        assert np.isfinite(KeySpace(keys).resemblance(np.ones(4, np.float32))).all()


def test_whitening_tells_apart_what_a_common_direction_hides() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal(30)
    keys = (30 * rng.standard_normal((200, 1)) * common + rng.standard_normal((200, 30)) + 50).astype(np.float32)
    noise = 3 * rng.standard_normal((200, 1)) * common + 0.2 * rng.standard_normal(keys.shape)
    views = (keys + noise).astype(np.float32)

    def hits(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        return float(((b @ a.T).argmax(axis=1) == np.arange(200)).mean())

    space = KeySpace(keys)
    assert hits(space.keys, space.enter(views)) > 0.95 > 0.6 > hits(keys, views)


def test_confidence_is_the_share_of_strangers_below() -> None:
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((50, 30)).astype(np.float32)
    index = Index(np.arange(50), keys)
    assert index.confidence(1.0) == 50 / 51 and index.confidence(-1.0) == 0
    known = [
        index.confidence(float(index.scores(key).max())) or 0 for key in keys + 0.2 * rng.standard_normal((50, 30))
    ]
    strange = [index.confidence(float(index.scores(key).max())) or 0 for key in rng.standard_normal((50, 30))]
    assert np.median(known) > 0.95 and np.median(strange) < 0.9
    assert Index(np.arange(FEW - 1), keys[: FEW - 1]).confidence(1.0) is None


def test_rare_words_weigh_more() -> None:
    words = Words(["the dog Rex", "the dog barks", "the dog sleeps", "", "Привет, мир"])
    assert words.resemblance("REX and the dog").argmax() == 0
    assert words.resemblance("привет").argmax() == 4
    assert words.resemblance("").max() == 0 and words.resemblance("unknown").max() == 0
    np.testing.assert_allclose(np.diag(words.among()), [1, 1, 1, 0, 1])


def test_a_thumbnail_hash_survives_recompression() -> None:
    photo = picture(3, (200, 160))
    file = io.BytesIO()
    photo.resize((90, 70)).save(file, "JPEG", quality=50)
    copy = Image.open(file)

    def distance(a: Image.Image, b: Image.Image) -> int:
        return bin(int(thumbnail_hash(a), 16) ^ int(thumbnail_hash(b), 16)).count("1")

    assert distance(photo, copy) <= 6 < 15 < distance(photo, picture(4, (200, 160)))
    assert len(thumbnail_hash(photo)) == 16
