from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bitmar.core.errors import TokenizerError
from bitmar.runtime.text import TextStream, check_ids, encode


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = TextStream(tokenizer)
    return [*(stream.push(token) for token in ids), stream.finish()]


@given(text=st.text(max_size=40))
def test_streamed_text_is_the_text(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.encode_special_tokens = True  # as a loaded model does: a user's "<bos>" is five characters
    assert "".join(pieces(tokenizer, encode(tokenizer, text))) == text


@given(ids=st.lists(st.integers(0, 275), max_size=30))
def test_any_tokens_stream_to_what_they_decode_to(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Random bytes are mostly no valid UTF-8, and special tokens have no text."""
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_no_piece_holds_half_a_character(tokenizer: Tokenizer) -> None:
    streamed = pieces(tokenizer, encode(tokenizer, "aé\N{GRINNING FACE}b"))
    assert [piece for piece in streamed if piece] == ["a", "é", "\N{GRINNING FACE}", "b"]


def test_memory_of_a_stream_does_not_grow(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    for token in encode(tokenizer, "the dog runs é" * 200):
        stream.push(token)
        assert len(stream._ids) < 4


def test_text_that_is_no_unicode_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match="no text that can be encoded"):
        encode(tokenizer, "\ud800")
    with pytest.raises(TokenizerError):
        encode(tokenizer, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[], [[1, 2]], [1.5], ["a"], [[1], [2, 3]], None, [280], [-1]])
def test_wrong_ids_are_refused(ids: object) -> None:
    with pytest.raises(TokenizerError):
        check_ids(ids, 280)
