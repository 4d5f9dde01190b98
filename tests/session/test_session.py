"""Sessions: remembered at once, recalled honestly, read by the model, kept in a file, moved between models."""

from __future__ import annotations

import copy
import io
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
from PIL import Image

from bitmar import BitMar
from bitmar.core.errors import ConfigError, ImageError, MemoryFileError
from bitmar.session.session import thumbnail_hash

from ._pictures import SLOTS, picture


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


def test_a_thumbnail_hash_survives_recompression() -> None:
    photo = picture(3, (200, 160))
    file = io.BytesIO()
    photo.resize((90, 70)).save(file, "JPEG", quality=50)
    copy = Image.open(file)

    def distance(a: Image.Image, b: Image.Image) -> int:
        return bin(int(thumbnail_hash(a), 16) ^ int(thumbnail_hash(b), 16)).count("1")

    assert distance(photo, copy) <= 6 < 15 < distance(photo, picture(4, (200, 160)))
    assert len(thumbnail_hash(photo)) == 16
