"""What is read into the picture of the memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitmar.api import BitMar
from bitmar.core.errors import ConfigError, DataError
from bitmar.plots.slots import Passage, Reading, held, passages, read, usage_along


def nothing() -> None:
    pass


def test_ranks_and_halves() -> None:
    reading = Reading("r", np.array([[0.2, 0.2], [0.6, 0.2], [0.2, 0.6]], np.float32))
    assert reading.ranked[0].tolist() == pytest.approx([0.6, 0.2])
    assert reading.needed == 2
    assert Reading("r", np.array([[0.9], [0.1]], np.float32)).needed == 1


def test_sentences_for_want_of_data() -> None:
    found = passages((), ())
    assert {passage.kind for passage in found} == {"scenes", "talk", "stories", "facts"}
    assert len({passage.text for passage in found}) == len(found) == 32


def test_texts_are_cut_into_parts(tmp_path: Path) -> None:
    (tmp_path / "novel.txt").write_text(" ".join(f"word{i}" for i in range(400)))
    (tmp_path / "lines.txt").write_text("\n".join(f"Line number {i}." for i in range(50)))
    found = passages((), [str(tmp_path / "novel.txt"), str(tmp_path / "lines.txt")], 1, each=5)
    assert [passage.kind for passage in found] == ["novel"] * 5 + ["lines"] * 5
    assert all(len(passage.text) <= 240 for passage in found)
    assert " ".join(p.text for p in found[:5]).startswith("word0 word1 word2") and found[0].text[-1].isdigit()
    with pytest.raises(DataError, match="--heldout 1"):
        passages((), [str(tmp_path / "novel.txt")], 0)


def test_reads_are_shares(model: BitMar, picture: Image.Image) -> None:
    found = [Passage("a", "a dog"), Passage("b", "a dog", picture)]
    reading = read("m", model, found, None, nothing)
    assert reading.activation.shape == (5, 2)
    np.testing.assert_allclose(reading.activation.sum(axis=0), 1, atol=1e-5)
    assert not np.array_equal(*reading.activation.T)  # the photo was seen


def test_no_memory_no_slots(make_model: Callable[..., BitMar], model: BitMar) -> None:
    blind = make_model(replace(model.config, memory_integration="off"))
    with pytest.raises(ConfigError, match="without a memory"):
        read("m", blind, [Passage("a", "x")], None, nothing)


def test_a_slot_holds_what_reads_it_the_most() -> None:
    reading = Reading("r", np.array([[0.1, 0.2, 0.9], [0.9, 0.8, 0.1]], np.float32))
    first, second = held(reading, [Passage("k", text) for text in ("x", "y", "z")], None)
    assert (first.slot, first.texts) == (1, ["x", "y"]) and (second.slot, second.texts) == (0, ["z", "y"])
    assert first.share == pytest.approx(0.6)


def test_a_remembered_slot_holds_its_episode(model: BitMar, picture: Image.Image) -> None:
    session = model.memory()
    slot = session.remember("our dog Rex", picture).slot
    reading = read("m", model, [Passage("a", "a dog")], session.state_for(model), nothing)
    (only,) = held(reading, [Passage("a", "a dog")], session)
    assert (only.slot, only.texts) == (slot, ["our dog Rex"])


def test_usage_falls_where_nothing_is_written(model: BitMar) -> None:
    ticks: list[int] = []
    usage = usage_along(model, [Passage("a", f"text {i}") for i in range(3)], None, lambda: ticks.append(1))
    assert usage.shape == (5, 3) and len(ticks) == 3
    assert (usage >= 0).all() and (usage <= 1).all()
