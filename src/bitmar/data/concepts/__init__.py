"""Concepts: the few hundred words by which photos are told apart, and how they are found in captions and labels.

A concept is a word or a short phrase as captions use it ("dog", "fire truck", "riding"). Captions name them, labels and
the classes of a pretrained backbone stand for them, and a model learns keys that find them in a photo
(`bitmar.train.concepts`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from bitmar.core.vocabulary import Vocabulary, singulars, stopwords, synonyms, words

IMAGENET_CLASSES = 1000

_FURTHER = ("sheep", "person", "man", "woman", "child", "people", "animal", "food")


def build_vocabulary(captions_of_photos: Iterable[Sequence[str]], least: int = 25) -> Vocabulary:
    """The nouns of the ImageNet classes and of the labels, and content words that captions of `least` photos share."""
    stop = stopwords()
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
