"""The episodic memory against the torch model, and its promises about when it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError
from bitmar.runtime.memory import Write


# A fast decay keeps usages apart: at the usual one a memory this small is in use all over.
@pytest.fixture(
    params=[
        {"memory_decay": 0.3},
        {"memory_decay": 0.3, "write_rule": "literal"},
        {"query_pooling": "learned", "memory_dim": 36},
    ],
    ids=["address", "literal", "learned pooling"],
)
def pair(request: pytest.FixtureRequest, make_pair: Callable[..., Any]) -> Any:
    return make_pair(**request.param)


def ids(length: int) -> np.ndarray:
    return np.random.default_rng(5).integers(4, 276, length)


@pytest.mark.parametrize("length", [1, 5, 23])
def test_remembering_equals_torch(pair: Any, length: int) -> None:
    import torch

    tokens, image = ids(length), pair.image()["vision_features"]
    engine = pair.bitmar.engine
    state = engine.start(pair.bitmar.encode_image(features=image[0])).remember(tokens)
    with torch.no_grad():
        theirs = pair.torch_model.model(
            torch.from_numpy(tokens)[None], vision_features=torch.from_numpy(image), write_memory=True
        ).memory
    np.testing.assert_allclose(state.slots, theirs.slots.numpy(), atol=1e-4)
    np.testing.assert_allclose(state.usage, theirs.usage.numpy(), atol=1e-4)


def test_a_long_text_in_chunks_equals_torch_in_one_forward(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("bitmar.runtime.engine._CHUNK", 7)  # ends within segments, which are of 5
    tokens, engine = ids(33), pair.bitmar.engine
    state = engine.start().remember(tokens)
    with torch.no_grad():
        theirs = pair.torch_model.model(torch.from_numpy(tokens)[None], write_memory=True).memory
    np.testing.assert_allclose(state.slots, theirs.slots.numpy(), atol=1e-3)


def test_writing_while_streaming_equals_torch_with_its_cache(pair: Any) -> None:
    import torch

    tokens, engine = ids(23), pair.bitmar.engine
    state, cache = engine.start(), pair.torch_model.model.new_cache()
    for token in tokens:
        hidden = state.forward(np.array([[token]]), Write.ENDED)
        with torch.no_grad():
            theirs = pair.torch_model.model(torch.tensor([[token]]), past_key_values=cache, write_memory=True)
        assert np.abs(hidden - theirs.last_hidden_state.numpy()).max() < 0.1
    np.testing.assert_allclose(state.memory.slots, theirs.memory.slots.numpy(), atol=1e-3)


def test_reading_what_was_written_equals_torch(pair: Any) -> None:
    import torch

    from bitmar.model.memory import MemoryState

    memory = pair.bitmar.remember("the dog runs over the green grass")
    ours = pair.bitmar.logits(ids(9), memory=memory)
    state = MemoryState(torch.from_numpy(memory.slots), torch.from_numpy(memory.usage))
    with torch.no_grad():
        theirs = pair.torch_model(torch.from_numpy(ids(9))[None], memory=state).logits[0].numpy()
    assert np.median(np.abs(ours - theirs)) < 1e-4 and np.abs(ours - theirs).max() < 0.25
    assert np.abs(ours - pair.bitmar.logits(ids(9))).max() > 0.01  # it makes a difference at all


def test_no_token_reads_what_its_own_segment_writes(pair: Any) -> None:
    engine, tokens = pair.bitmar.engine, ids(13)[None]
    frozen = engine.start().forward(tokens)
    written = engine.start().forward(tokens, Write.ALL)
    np.testing.assert_array_equal(written[:, :5], frozen[:, :5])
    assert np.abs(written[:, 5:] - frozen[:, 5:]).max() > 1e-3


def test_an_unfinished_segment_is_written_only_on_request(pair: Any) -> None:
    engine = pair.bitmar.engine
    for write, count in ((Write.NEVER, 0), (Write.ENDED, 2), (Write.ALL, 3)):
        writes = []
        original = engine.memory.write
        engine.memory.write = lambda q, state, f=original, w=writes: (w.append(1), f(q, state))[1]
        try:
            engine.start().forward(ids(13)[None], write)
        finally:
            del engine.memory.write
        assert len(writes) == count


def test_the_given_memory_stays_as_it_is(pair: Any) -> None:
    first = pair.bitmar.remember("the dog")
    slots, usage = first.slots.copy(), first.usage.copy()
    second = pair.bitmar.remember("the man runs", memory=first)
    pair.bitmar.generate("the", memory=first, max_tokens=8)
    np.testing.assert_array_equal(first.slots, slots)
    np.testing.assert_array_equal(first.usage, usage)
    assert np.abs(second.slots - first.slots).max() > 0


def test_a_model_without_memory_says_so(make_pair: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no memory"):
        make_pair(memory_integration="off").bitmar.remember("the dog")
    with pytest.raises(ConfigError, match="no memory"):
        make_pair(memory_integration="off").bitmar.score("the", memory=make_pair().bitmar.remember("the dog"))


def test_the_memory_of_another_model_is_refused(make_pair: Callable[..., Any]) -> None:
    other = make_pair(query_pooling="learned", memory_dim=36).bitmar.remember("the dog")
    with pytest.raises(ConfigError, match="another model"):
        make_pair().bitmar.complete("the", memory=other)
