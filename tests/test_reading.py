"""A stream is one long text, read in passages, and remembered by segments where the caller asks for it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar import BitMar
from bitmar.core.errors import ConfigError, MemoryFileError, TokenizerError
from bitmar.reading import Passage, pieces
from bitmar.session.session import Session

LINES = ["the dog runs over the grass\n", "\n", "and the man runs\n"] * 9
SEGMENT, REACH = 5, 2 + 7  # of the tiny models
ENGINES = pytest.mark.parametrize("engine", ["numpy", "native"])


def on(engine: str, pair: Any) -> BitMar:
    model: BitMar = pair.bitmar if engine == "numpy" else pair.native()
    return model


def ids(model: BitMar, lines: list[str] = LINES) -> list[int]:
    """Of the whole stream, begin token first."""
    return [
        model.config.bos_token_id,
        *(i for line in lines for i in model.tokenizer.encode(line, add_special_tokens=False).ids),
    ]


def scores(passages: Any) -> np.ndarray:
    return np.concatenate([passage.scores for passage in passages])


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    """Up to activations that are rounded to int8, where the last bit of a sum moves a few tokens by a whole step."""
    assert np.abs(found - expected).max() < 0.3 and np.median(np.abs(found - expected)) < 0.05


@ENGINES
@pytest.mark.parametrize("sinks", [2, 0])
@pytest.mark.parametrize("every", [1, 7, 50, 10_000])
def test_passages_add_up_to_the_whole(make_pair: Callable[..., Any], engine: str, sinks: int, every: int) -> None:
    model = on(engine, make_pair(attention_sinks=sinks))
    passages = list(model.read(LINES, every=every))
    expected = model.score_ids(ids(model))
    assert sum(p.tokens for p in passages) == len(expected) > 9 * model.config.attention_window
    assert all(p.tokens == every for p in passages[:-1]) and passages[-1].tokens <= every
    assert_alike(scores(passages), expected)
    for passage in passages:
        assert passage.log_probability == pytest.approx(passage.scores.sum(), abs=1e-3)
        assert passage.perplexity == pytest.approx(np.exp(-passage.log_probability / passage.tokens))
        assert passage.memory is None and passage.seconds > 0


@pytest.mark.parametrize("changes", [{"attention_sinks": 0}, {"attention_sinks": 0, "attention_window": 1}], ids=str)
def test_without_sinks_both_engines_agree(make_pair: Callable[..., Any], changes: dict[str, Any]) -> None:
    pair = make_pair(**changes)
    ours, fast = (scores(on(engine, pair).read(LINES)) for engine in ("numpy", "native"))
    assert_alike(ours, fast)


def test_sinks_and_window_are_read_afresh_to_the_same_end(make_pair: Callable[..., Any]) -> None:
    """Where only one layer attends, no key depends on what has left the window: the stream must equal a sliding window
    that is read again for every token, its sinks in front.
    """
    pair = make_pair(encoder_layers=1, decoder_layers=1, memory_integration="off")
    model = BitMar(pair.bitmar.container, engine="numpy")  # of its own, for its encoder is about to change
    engine: Any = model.engine
    engine.encoder.blocks[0].attn.o_proj = np.zeros_like
    tokens = np.array(ids(model))
    whole = engine.start().logits(tokens)
    for last in range(REACH - 1, len(tokens), 3):
        afresh = np.concatenate([tokens[:2], tokens[last - 7 + 1 : last + 1]])
        np.testing.assert_allclose(engine.start().logits(afresh)[-1], whole[last], atol=1e-3)


@pytest.mark.parametrize("source", ["string", "file", "long line"])
def test_what_can_be_read(make_pair: Callable[..., Any], tmp_path: Path, source: str, monkeypatch: Any) -> None:
    model = make_pair().bitmar
    expected = scores(model.read(LINES))
    if source == "string":
        found = scores(model.read("".join(LINES)))
    elif source == "file":
        (tmp_path / "text.txt").write_text("".join(LINES))
        with open(tmp_path / "text.txt") as file:
            found = scores(model.read(file))
    else:
        monkeypatch.setattr("bitmar.reading._PIECE", 9)
        text = "a man and a dog " * 4
        assert max(map(len, pieces(io.StringIO(text)))) <= 9 + len(" and")
        expected, found = scores(model.read(text)), scores(model.read(io.StringIO(text)))
    assert_alike(found, expected)


def test_an_empty_stream_has_no_passage(make_pair: Callable[..., Any]) -> None:
    model = make_pair().bitmar
    for nothing in (["", ""], "", io.StringIO("")):
        assert not list(model.read(nothing, remember=True))


def test_wrong_streams_are_refused(make_pair: Callable[..., Any]) -> None:
    model = make_pair().bitmar
    for text in (["\ud800"], io.BytesIO(b"the dog"), [None]):
        with pytest.raises(TokenizerError):
            list(model.read(text))
    with pytest.raises(ConfigError):
        model.read(["a"], every=0)
    with pytest.raises(ConfigError, match="no memory"):
        make_pair(memory_integration="off").bitmar.read(["a"], remember=True)


# Segments that are remembered.


@ENGINES
@pytest.mark.parametrize("every", [1, 13, 10_000])
@pytest.mark.parametrize("changes", [{}, {"write_rule": "literal"}, {"query_pooling": "learned"}], ids=str)
def test_a_stream_writes_what_remember_writes(
    make_pair: Callable[..., Any], engine: str, every: int, changes: dict[str, Any]
) -> None:
    """By eq. 1, the unfinished last segment included; `remember` reads the text in one call."""
    model = on(engine, make_pair(memory_decay=0.3, **changes))
    text = LINES[0]
    last = list(model.read([text], remember=True, every=every))[-1].memory
    expected = model.remember(text)
    assert last is not None
    np.testing.assert_allclose(last.slots, expected.slots, atol=1e-3)
    np.testing.assert_allclose(last.usage, expected.usage, atol=1e-3)
    again = model.remember(text, memory=expected)
    last = list(model.read([text], memory=expected, remember=True, every=every))[-1].memory
    assert last is not None
    np.testing.assert_allclose(last.slots, again.slots, atol=1e-3)


@ENGINES
@pytest.mark.parametrize("into", ["state", "session"])
def test_the_next_segment_reads_what_was_written(make_pair: Callable[..., Any], engine: str, into: str) -> None:
    model = on(engine, make_pair())
    memory = model.memory() if into == "session" else None
    frozen = scores(model.read(LINES))
    written = scores(model.read(LINES, memory=memory, remember=True))
    np.testing.assert_allclose(written[:SEGMENT], frozen[:SEGMENT], atol=1e-4)  # no token reads its own segment
    assert np.abs(written[SEGMENT:] - frozen[SEGMENT:]).max() > 0.01


@pytest.mark.parametrize("into", ["state", "session"])
def test_both_engines_remember_alike(make_pair: Callable[..., Any], into: str) -> None:
    pair = make_pair()
    found = []
    for engine in ("numpy", "native"):
        model = on(engine, pair)
        memory = model.memory() if into == "session" else None
        passages = list(model.read(LINES, memory=memory, remember=True, every=11))
        state = passages[-1].memory if memory is None else memory.state_for(model)
        assert state is not None
        found.append((scores(passages), state))
    (ours, our_state), (fast, fast_state) = found
    assert_alike(ours, fast)
    np.testing.assert_allclose(our_state.slots, fast_state.slots, atol=0.1)
    np.testing.assert_allclose(our_state.usage, fast_state.usage, atol=0.1)


@ENGINES
@pytest.mark.parametrize("every", [1, 4, 10_000])
def test_segments_become_episodes(make_pair: Callable[..., Any], tmp_path: Path, engine: str, every: int) -> None:
    model = on(engine, make_pair(memory_slots=64))
    path = tmp_path / "home.mem"
    with model.memory(path) as memory:
        list(model.read(LINES, memory=memory, remember=True, every=every))
    tokens = ids(model)
    segments = [tokens[i : i + SEGMENT] for i in range(0, len(tokens), SEGMENT)]
    texts = [model.tokenizer.decode(segment).strip() for segment in segments]
    kept = model.memory(path).inspect()[::-1]
    assert [episode.text for episode in kept] == [text for text in texts if text]
    # The value of a slot is what the memory was asked with at the end of its segment.
    state = model.engine.start()
    first = state.query(np.array(segments[0]))
    np.testing.assert_allclose(model.memory(path).state_for(model).slots[0, 0], first, atol=5e-3)
    (best,) = model.memory(path).recall(text=texts[3])
    assert best.episode.text == texts[3]


def test_a_stream_longer_than_the_memory_keeps_the_latest(make_pair: Callable[..., Any]) -> None:
    model = make_pair().bitmar
    memory = model.memory()
    list(model.read(LINES * 2, memory=memory, remember=True))
    assert len(memory) == 8
    tokens = ids(model, LINES * 2)
    last = model.tokenizer.decode(tokens[(len(tokens) - 1) // SEGMENT * SEGMENT :]).strip()
    assert memory.inspect()[0].text == last


def test_without_being_asked_a_stream_writes_nothing(make_pair: Callable[..., Any]) -> None:
    model = make_pair().bitmar
    memory = model.memory()
    memory.remember("the dog")
    before = memory.state_for(model)
    list(model.read(LINES, memory=memory))
    assert len(memory) == 1
    np.testing.assert_array_equal(memory.state_for(model).slots, before.slots)


def test_a_disk_that_fails_ends_the_stream_and_keeps_what_was_written(
    make_pair: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_pair(memory_slots=64).bitmar
    memory = model.memory(tmp_path / "home.mem")
    note, calls = Session.note, []

    def failing(self: Session, text: str, query: Any) -> Any:
        calls.append(text)
        if len(calls) == 4:
            raise MemoryFileError("the card is gone")
        return note(self, text, query)

    monkeypatch.setattr(Session, "note", failing)
    read: list[Passage] = []
    with pytest.raises(MemoryFileError):
        read.extend(model.read(LINES, memory=memory, remember=True, every=1))
    memory.close()
    kept = model.memory(tmp_path / "home.mem").inspect()[::-1]
    assert [episode.text for episode in kept] == [text.strip() for text in calls[:3]]
    assert 0 < len(read) < len(ids(model)) - 1
