"""Saying again, word for word, what was remembered with a picture: a pointer into the memory beside the model's read.

What the slots hold colours every word, but a name that the model has never met cannot come out of a vector. So when a
picture is recognised with confidence, the text that was remembered with it is copied (the copying half of arXiv
1704.04368, with the recall's confidence as a gate that is open or shut), as a sentence of its own: what the model would
add to a stranger's name is a guess.
"""

from __future__ import annotations

import re
from typing import Protocol

from bitmar.session.layout import Episode

SURE = 0.997
"""Confidence from which on an episode is recited. Photos of one kind, as a memory holds them, resemble each other about
three times as often as the mixed photos of a calibration: of those never shown, less than one in a hundred is recited.
"""

_WORD = re.compile(r"\w+")
_ENDED = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d)\]]*$")  # latin and full-width; quotes and brackets
_LOOSE = " \t\r\n,;:-\u2013\u2014"  # at the end of a text: what a sentence does not end with


class Found(Protocol):
    """An episode, and how sure it is that the picture is its picture (`session.Recalled`)."""

    @property
    def episode(self) -> Episode: ...

    @property
    def confidence(self) -> float | None: ...


def to_recite(found: Found | None, sure: float = SURE) -> str:
    """The text of an episode that was recalled with at least this confidence, else ""."""
    if found is None or found.confidence is None or found.confidence < sure:
        return ""
    return found.episode.text


def rest_of(remembered: str, begun: str) -> str:
    """The rest of a remembered text after the words with which `begun` ends, "" if it does not contain them.

    Nothing begun: all of it, as a sentence begins. Otherwise as many of the last words as stand together in it.
    """
    if not begun.strip():
        return remembered[:1].upper() + remembered[1:]
    theirs = list(_WORD.finditer(remembered))
    known = [word.group().casefold() for word in theirs]
    said = [word.casefold() for word in _WORD.findall(begun)]
    ends = range(1, len(known) + 1)
    best, end = max(((_common(known[:end], said), -end) for end in ends), default=(0, 0))
    if not best:
        return ""
    rest = remembered[theirs[-end - 1].end() :]
    return rest.lstrip() if begun[-1].isspace() else rest


def as_sentence(words: str) -> tuple[str, int]:
    """The words with a full stop where they end in none, and how many characters of that are the words."""
    if _ENDED.search(words.rstrip()):
        return words.rstrip(), len(words.rstrip())
    words = words.rstrip(_LOOSE)
    return (f"{words}.", len(words)) if words else ("", 0)


def _common(first: list[str], second: list[str]) -> int:
    """How many words both end with."""
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
