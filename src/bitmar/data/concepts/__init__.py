"""Concepts: the few hundred words by which photos are told apart, and how they are found in captions and labels.

A concept is a word or a short phrase as captions use it ("dog", "fire truck", "riding"). Captions name them, labels and
the classes of a pretrained backbone stand for them, and a model learns keys that find them in a photo
(`bitmar.train.concepts`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files

import numpy as np
import numpy.typing as npt

IMAGENET_CLASSES = 1000
LONGEST = 3  # words of a phrase

_WORD = re.compile(r"[a-z]+")

_FURTHER = ("sheep", "person", "man", "woman", "child", "people", "animal", "food")


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
        tokens, found, at = words(text), [], 0
        while at < len(tokens):
            for length in range(min(LONGEST, len(tokens) - at), 0, -1):
                concept = self._look_up(tokens[at : at + length])
                if concept is not None:
                    found.append(concept)
                    break
            at += length
        return list(dict.fromkeys(found))

    def _look_up(self, tokens: list[str]) -> int | None:
        if len(tokens) == 1:
            return self.concept(tokens[0])
        for last in (tokens[-1], *singulars(tokens[-1])):
            if (place := self._phrases.get((*tokens[:-1], last))) is not None:
                return place
        return None


def singulars(word: str) -> list[str]:
    """What a word may be the plural of."""
    found = []
    if word.endswith("ies"):
        found.append(word[:-3] + "y")
    if word.endswith("es"):
        found.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss"):
        found.append(word[:-1])
    return found


def build_vocabulary(captions_of_photos: Iterable[Sequence[str]], least: int = 25) -> Vocabulary:
    """The nouns of the ImageNet classes and of the labels, and content words that captions of `least` photos share."""
    stop = set(_table("stopwords.txt").split())  # words that say nothing about what is to be seen
    counts: Counter[str] = Counter()
    for captions in captions_of_photos:
        counts.update({word for caption in captions for word in words(caption)})
    names = dict.fromkeys(sorted({*imagenet_nouns().values(), *(c for of in label_table().values() for c in of)}))
    names |= dict.fromkeys(_FURTHER)
    for word, count in counts.most_common():
        if count < least or len(word) < 3 or word in stop:
            continue
        word = synonyms().get(word, word)
        base = next((form for form in singulars(word) if counts[form] >= least and form not in stop), word)
        names.setdefault(synonyms().get(base, base))
    return Vocabulary(list(names))


@cache
def synonyms() -> Mapping[str, str]:
    """Another word -> the word that stands in the vocabulary."""
    rows = (line.split("\t") for line in _table("synonyms.tsv").splitlines() if not line.startswith("#"))
    return {other: word for word, others in rows for other in others.split()}


@cache
def imagenet_nouns() -> Mapping[int, str]:
    """ImageNet class number -> the noun that a caption would use."""
    table = _table("imagenet.tsv")
    nouns: dict[int, str] = {}
    for line in table.splitlines():
        if line.startswith("#") or not line:
            continue
        numbers, noun = line.split("\t")
        for part in numbers.split():
            low, _, high = part.partition("-")
            nouns |= dict.fromkeys(range(int(low), int(high or low) + 1), noun)
    return nouns


def imagenet_names() -> tuple[str, ...]:
    """The 1,000 classes by name, in the order of their numbers."""
    return tuple(_table("imagenet_names.txt").splitlines())


def label_table() -> Mapping[str, tuple[str, ...]]:
    """Label, in lower case -> the concepts that a caption would name, the main one first."""
    table = _table("labels.tsv")
    rows = (line.split("\t") for line in table.splitlines() if line and not line.startswith("#"))
    return {label: tuple(concepts.split(", ")) for label, concepts in rows}


class Labels:
    """From the label of a photo to the concepts that are to be seen in it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        nouns = imagenet_nouns()
        named = {name.lower(): (nouns[i],) for i, name in enumerate(imagenet_names()) if i in nouns}
        self._concepts = {**named, **label_table()}

    def __call__(self, label: str) -> list[int]:
        """The concepts of a label such as "tabby", "Red Bell Pepper" or "bicycle, car, person"; [] for none."""
        found: list[int] = []
        for part in re.split(r", | and ", label.lower()):
            found += self._one(part)
        return list(dict.fromkeys(found))

    def _one(self, label: str) -> list[int]:
        tokens = label.split()
        tails = (" ".join(tokens[i:]) for i in range(len(tokens)))  # "red bell pepper", "bell pepper", "pepper"
        known = next((self._concepts[tail] for tail in tails if tail in self._concepts), None)
        if known is None:
            known = next((self._concepts[token] for token in tokens if token in self._concepts), None)
        if known is not None:
            return [self.vocabulary.index[name] for name in known if name in self.vocabulary.index]
        return self.vocabulary.find(label)


def _table(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def class_concepts(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """(1000,) the concept of each ImageNet class, -1 where there is none."""
    found = np.full(IMAGENET_CLASSES, -1, np.int64)
    for number, noun in imagenet_nouns().items():
        found[number] = vocabulary.index.get(noun, -1)
    return found
