"""Between text and tokens."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.errors import TokenizerError
from bitmar.runtime.cache import I64


def checked(text: object) -> str:
    """A text. Raises TokenizerError for anything else."""
    if not isinstance(text, str):
        raise TokenizerError(f"this is no text that can be encoded: it is of the type {type(text).__name__}")
    return text


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text, nothing added. Raises TokenizerError for text that is not valid Unicode."""
    try:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    except (UnicodeEncodeError, TypeError) as error:
        raise TokenizerError(f"this is no text that can be encoded: {error}") from error
    return ids


def check_ids(ids: object, vocab_size: int) -> I64:
    """Ids as an int64 array (T,), T >= 1. Raises TokenizerError for all but a list of known tokens."""
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise TokenizerError("token ids must be one flat list of whole numbers") from error
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise TokenizerError(
            f"token ids must be one flat, non-empty list of whole numbers, not {array.dtype} of shape {array.shape}"
        )
    if array.min() < 0 or array.max() >= vocab_size:
        raise TokenizerError(f"a token id lies outside this model's vocabulary, 0 to {vocab_size - 1}")
    return array.astype(np.int64)


class TextStream:
    """Turns tokens into text as they come, never half a character: a byte-level token may end inside one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # since the last place where text and tokens ended together
        self._given = 0  # characters of these that were returned already

    def push(self, token: int) -> str:
        """The text that is certain once this token is known; often empty in the middle of a character."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        # The decoder puts a replacement character for bytes that make no whole character yet.
        certain = text.rstrip("\N{REPLACEMENT CHARACTER}")
        piece = certain[self._given :]
        if certain == text:  # byte-level text can be cut here: decoding goes on as if it began anew
            self._ids, self._given = [], 0
        else:
            self._given = len(certain)
        return piece

    def finish(self) -> str:
        """The remaining text when no token follows."""
        text: str = self._tokenizer.decode(self._ids)
        piece, self._ids, self._given = text[self._given :], [], 0
        return piece
