"""Questions about plain text, made by rule, so that a model of text learns what a question and its answer look like.

Three kinds, each answered by the text itself or by what words go together, in the prompts that the field uses:

    yes or no, of a definition   PASSAGE\\nQuestion: is X a Y?\\nAnswer: yes            (a Y of another passage: no)
    yes or no, of a word         PASSAGE\\nQuestion: is there anything about W?\\nAnswer: no
    the missing word, by letter  Question: SENTENCE, with _ for a word\\nChoices:\\nA. ...\\nAnswer: C

Several yes-or-no questions follow one passage, so that the answers, which are what matters, are not one token in a
hundred. Yes and no, and the letters of a list, are equally often right: what is learned is the form, no habit. Cloze
questions after Taylor, 1953, and Hermann et al., 2015; those of a definition are ours, shaped like BoolQ's (Clark et
al., 2019).
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

PASSAGE_WORDS = 110
"""Most words of a passage that is asked about: with its question it fits a training row."""

MOST = 4
"""Yes-or-no questions about one passage."""

LETTERS = "ABCDE"

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'A-Z(])")
_HEADING_OR_SPEAKER = re.compile(r"^(?:= .* =$|\*?[A-Z]{1,3}:\s*)")
_ASIDE = re.compile(r"\s*\([^()]*\)")
_DEFINITION = re.compile(
    r"^(?!(?:It|He|She|This|That|There|Here|What|They) )((?:[\w'.-]+ ){1,5}?)"
    r"(is|was|are|were) ((?:a|an|the|one) [^,;:.]{4,90})"
)
_WORD = re.compile(r"[A-Za-z]{4,}")
_CLOZE = 0.4  # of the passages are asked for a missing word
_TRIES = 32  # to draw a word that is not excluded
_REMEMBERED = 512  # definitions and words of passages before, to draw wrong answers from


def questions(documents: Iterable[str]) -> Iterator[str]:
    """Question texts of these documents, about one for each passage; some documents give none.

    A question depends on its document and on those before it; the same documents give the same questions.
    """
    definitions: deque[str] = deque(maxlen=_REMEMBERED)
    words: deque[str] = deque(maxlen=8 * _REMEMBERED)
    for document in documents:
        digest = hashlib.blake2b(document.encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        for passage in _passages(document):
            found = _missing_word(passage, words, rng) if rng.random() < _CLOZE else None
            found = found or _yes_or_no(passage, definitions, words, rng)
            words.extend(_WORD.findall(passage))
            if found is not None:
                yield found


def _passages(document: str) -> Iterator[str]:
    """Whole sentences, as many as a passage holds, without headings and the names of speakers."""
    lines = (_HEADING_OR_SPEAKER.sub("", line).strip() for line in document.split("\n"))
    sentences = [sentence for line in lines for sentence in _SENTENCE.split(line) if sentence]
    passage: list[str] = []
    size = 0
    for sentence in sentences:
        length = len(sentence.split())
        if passage and size + length > PASSAGE_WORDS:
            yield " ".join(passage)
            passage, size = [], 0
        if length <= PASSAGE_WORDS:
            passage.append(sentence)
            size += length
    if passage:
        yield " ".join(passage)


def _yes_or_no(passage: str, definitions: deque[str], words: deque[str], rng: np.random.Generator) -> str | None:
    """The passage and up to `MOST` questions about it."""
    asked: set[str] = set()
    found = [_definition(passage, definitions, rng), *(_mention(passage, words, asked, rng) for _ in range(MOST - 1))]
    return "\n".join([passage, *filter(None, found)]) if any(found) else None


def _definition(passage: str, before: deque[str], rng: np.random.Generator) -> str | None:
    """Whether something is what the passage says it is, or what another passage says of another thing."""
    match = _DEFINITION.match(_ASIDE.sub("", passage))
    if match is None:
        return None
    subject, verb, own = match[1].strip(), match[2], match[3].strip()
    others = [other for other in before if other not in passage]
    before.append(own)
    right = bool(rng.random() < 0.5)
    if not right and not others:
        return None
    said = own if right else others[int(rng.integers(len(others)))]
    return _answered(f"{verb} {subject} {said}", right)


def _mention(passage: str, before: deque[str], asked: set[str], rng: np.random.Generator) -> str | None:
    """Whether a word is in the passage, one that was not asked about yet."""
    own = _WORD.findall(passage)
    right = bool(rng.random() < 0.5)
    held = {word.lower() for word in re.findall(r"[A-Za-z]+", passage)}
    word = next(_drawn(own, asked, rng) if right else _drawn(before, asked | held, rng), None)
    if word is None:
        return None
    asked.add(word)
    return _answered(f"is there anything about {word}", right)


def _answered(question: str, right: bool) -> str:
    return f"Question: {question}?\nAnswer: {'yes' if right else 'no'}"


def _missing_word(passage: str, before: deque[str], rng: np.random.Generator) -> str | None:
    """Which of four or five words is missing in a sentence."""
    sentences = [sentence for sentence in _SENTENCE.split(passage) if 6 <= len(sentence.split()) <= 40]
    if not sentences:
        return None
    sentence = sentences[int(rng.integers(len(sentences)))]
    places = list(_WORD.finditer(sentence))
    count = int(rng.integers(4, 6))
    if not places:
        return None
    place = places[int(rng.integers(len(places)))]
    own = place[0].lower()
    wrong = list(islice(_drawn(before, {word.lower() for word in _WORD.findall(sentence)}, rng), count - 1))
    if len(wrong) < count - 1:
        return None
    answer = int(rng.integers(count))
    choices = [*wrong[:answer], own, *wrong[answer:]]
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    asked = f"{sentence[: place.start()]}_{sentence[place.end() :]}"
    return f"Question: {asked}\nChoices:\n{listed}\nAnswer: {LETTERS[answer]}"


def _drawn(words: Sequence[str], excluded: set[str], rng: np.random.Generator) -> Iterator[str]:
    """Words of a sequence at random, in small letters, each once and none of those excluded; ends after `_TRIES`."""
    drawn = set(excluded)
    for _ in range(_TRIES if words else 0):
        word = words[int(rng.integers(len(words)))].lower()
        if word not in drawn:
            drawn.add(word)
            yield word
