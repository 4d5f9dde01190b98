"""A stream is one long text, read in passages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, TokenizerError

LINES = ["the dog runs over the grass\n", "\n", "and the man runs\n"] * 9


@pytest.mark.parametrize("engine", ["numpy", "native"])
@pytest.mark.parametrize("every", [1, 7, 50, 10_000])
def test_passages_add_up_to_the_whole(make_pair: Callable[..., Any], engine: str, every: int) -> None:
    pair = make_pair()
    model = pair.bitmar if engine == "numpy" else pair.native()
    passages = list(model.read(LINES, every=every))
    lines = model.tokenizer.encode_batch(LINES, add_special_tokens=False)
    ids = [model.config.bos_token_id, *(i for line in lines for i in line.ids)]
    expected = model.score_ids(ids)
    assert sum(p.tokens for p in passages) == len(expected) > 9 * model.config.attention_window
    assert all(p.tokens == every for p in passages[:-1]) and passages[-1].tokens <= every
    ends = np.cumsum([p.tokens for p in passages])
    for start, end, passage in zip([0, *ends], ends, passages, strict=False):
        assert passage.log_probability == pytest.approx(expected[start:end].sum(), abs=0.02 * passage.tokens)
        assert passage.perplexity == pytest.approx(np.exp(-passage.log_probability / passage.tokens))


def test_an_empty_stream_has_no_passage(make_pair: Callable[..., Any]) -> None:
    assert not list(make_pair().bitmar.read(["", ""]))


def test_wrong_streams_are_refused(make_pair: Callable[..., Any]) -> None:
    model = make_pair().bitmar
    with pytest.raises(TokenizerError):
        list(model.read(["\ud800"]))
    with pytest.raises(ConfigError):
        list(model.read(["a"], every=0))
