"""Saying again, word for word, what was remembered with a picture: a pointer into the memory beside the model's read.

What the slots hold colours every word, but a name that the model has never met cannot come out of a vector. So when a
picture is recognised with confidence, the text that was remembered with it is copied and the model goes on from there
(the copying half of arXiv 1704.04368, with the recall's confidence as a gate that is open or shut).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bitmar.runtime.backend import Backend
from bitmar.runtime.options import GenerationOptions
from bitmar.runtime.text import encode
from bitmar.session.session import Recalled

SURE = 0.99
"""Confidence from which on an episode is recited: of pictures never shown, one in a hundred is given a false name."""

_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"[.!?][\"')\]]*$")  # nothing need follow
_CHOICES = 256  # tokens among which one that leads on is looked for


def to_recite(found: Recalled | None, sure: float = SURE) -> str:
    """The text of an episode that was recalled with at least this confidence, else ""."""
    if found is None or found.confidence is None or found.confidence < sure:
        return ""
    return found.episode.text


def rest_of(remembered: str, begun: str) -> str:
    """What follows in a remembered text on the words with which `begun` ends, "" if it does not contain them.

    Nothing begun: all of it, as a sentence begins. Otherwise as many of the last words as stand together in it.
    """
    if not begun.strip():
        return remembered[:1].upper() + remembered[1:]
    theirs = list(_WORD.finditer(remembered))
    known = [word.group().casefold() for word in theirs]
    said = _words(begun)
    ends = range(1, len(known) + 1)
    best, end = max(((_common(known[:end], said), -end) for end in ends), default=(0, 0))
    if not best:
        return ""
    rest = remembered[theirs[-end - 1].end() :]
    return rest.lstrip() if begun[-1].isspace() else rest


def _common(first: list[str], second: list[str]) -> int:
    """How many words both end with."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def copy(
    backend: Backend,
    state: Any,
    tokenizer: Tokenizer,
    eos: int,
    words: str,
    draft: Sequence[int],
    options: GenerationOptions,
) -> tuple[tuple[int, ...], bool]:
    """Let `state` read the words as if the model had written them, and one token that leads on from them.

    draft: what the model would have said by itself. Its words are what the picture shows, so the token is the one of
    those that begin a word there which the model finds the likeliest now: the name grows no ending, and what follows
    stays with the picture. Returns the tokens, at most options.max_tokens, and whether nothing need follow.
    """
    whole = encode(tokenizer, words)
    tokens = whole[: options.max_tokens]
    backend.read(np.array(tokens), state)
    ended = len(tokens) == len(whole) and bool(_SENTENCE.search(words))
    if ended or len(tokens) == options.max_tokens:
        return tuple(tokens), ended
    said = set(_words(words))
    pieces = {token: tokenizer.decode([token]) for token in draft}
    leads = {token for token, piece in pieces.items() if _begins_word(piece) and not said & set(_words(piece))}
    likely, _ = backend.candidates(state, _CHOICES, options.repetition_penalty)
    token = next((token for token in likely[0].tolist() if token in leads), eos)
    if token == eos:
        return tuple(tokens), True
    backend.read(np.array([token]), state)
    return (*tokens, token), False


def _begins_word(text: str) -> bool:
    return not text[:1].isalnum()


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]
