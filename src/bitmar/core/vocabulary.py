"""Concepts in texts: which words of a vocabulary a caption names, in the singular or the plural or by another word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files

LONGEST = 3  # words of a phrase

_WORD = re.compile(r"[a-z]+")


def words(text: str) -> list[str]:
    """The words of a text, lower-case letters only."""
    return _WORD.findall(text.lower())


class Vocabulary:
    """A list of concepts, and where they occur in a text."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.index = {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _phrases(self) -> dict[tuple[str, ...], int]:
        return {tuple(name.split()): i for name, i in self.index.items() if " " in name}

    def concept(self, word: str) -> int | None:
        """The concept that a single word stands for: itself, a synonym or its plural."""
        for form in (word, synonyms().get(word), *singulars(word)):
            if form is not None and form in self.index:
                return self.index[form]
        return None

    def find(self, text: str) -> list[int]:
        """The concepts that a text names, in their order, each once; the longest phrase first."""
        return list(dict.fromkeys(self.mentions(text)))

    def mentions(self, text: str) -> list[int]:
        """`find`, each as often as it is named."""
        return [concept for concept, _ in self._parts(text) if concept is not None]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that say something and belong to no concept."""
        return [word for concept, word in self._parts(text) if concept is None and word not in stopwords()]

    def _parts(self, text: str) -> Iterator[tuple[int | None, str]]:
        """The text in concepts and single words that are none."""
        tokens, at = words(text), 0
        while at < len(tokens):
            for length in range(min(LONGEST, len(tokens) - at), 0, -1):
                concept = self._look_up(tokens[at : at + length])
                if concept is not None:
                    break
            yield concept, " ".join(tokens[at : at + length])
            at += length

    def _look_up(self, tokens: list[str]) -> int | None:
        if len(tokens) == 1:
            return self.concept(tokens[0])
        for last in (tokens[-1], *singulars(tokens[-1])):
            if (place := self._phrases.get((*tokens[:-1], last))) is not None:
                return place
        return None


def singulars(word: str) -> list[str]:
    """The singulars that a word may be the plural of."""
    found = []
    if word.endswith("ies"):
        found.append(word[:-3] + "y")
    if word.endswith("es"):
        found.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss"):
        found.append(word[:-1])
    return found


@cache
def synonyms() -> Mapping[str, str]:
    """Another word -> the word that stands in the vocabulary."""
    rows = (
        line.split("\t")
        for line in (files(__package__) / "synonyms.tsv").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    return {other: word for word, others in rows for other in others.split()}


@cache
def stopwords() -> frozenset[str]:
    """Words that say nothing about what is to be seen."""
    return frozenset((files(__package__) / "stopwords.txt").read_text(encoding="utf-8").split())
