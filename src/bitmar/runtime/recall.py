"""Which of the remembered episodes a picture or a text resembles, and how sure that is.

What tells two episodes apart depends on what else is remembered: keys are centred and whitened by the memory's own
mean and covariance (Mahalanobis cosine). While there are few, both are drawn towards "no knowledge": mean 0, isotropic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitmar.core.ternary import F32

FEW = 8  # episodes from which on strangers among them say what a chance resemblance is
_PRIOR = 16  # the covariance counts as much as "isotropic" at so many episodes
_FLOOR = 1e-3  # of the mean variance: directions in which nothing differs are not blown up

F64 = npt.NDArray[np.float64]


class KeySpace:
    """Keys (n, w), n >= 1, where the angle between two measures how likely both show the same."""

    def __init__(self, keys: F32) -> None:
        exact = keys.astype(np.float64)
        trust = len(keys) / (len(keys) + _PRIOR)
        mean = exact.mean(axis=0)
        covariance = (exact - mean).T @ (exact - mean) / len(keys)
        spread = float(np.trace(covariance)) / keys.shape[1] or 1.0
        covariance = trust * covariance + (1 - trust + _FLOOR) * spread * np.eye(keys.shape[1])
        self._mean = trust * mean
        self._whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
        self.keys = self.enter(exact)

    def enter(self, keys: F32 | F64) -> F64:
        """Keys (..., w) of any kind in this space, of length 1."""
        white = (keys - self._mean) @ self._whiten
        unit: F64 = white / np.maximum(np.linalg.norm(white, axis=-1, keepdims=True), 1e-12)
        return unit

    def resemblance(self, key: F32) -> F64:
        """Cosine of one key (w,) to all (n,)."""
        cosine: F64 = self.keys @ self.enter(key)
        return cosine

    def among(self) -> F64:
        """Cosine of all pairs (n, n)."""
        cosine: F64 = self.keys @ self.keys.T
        return cosine


class Words:
    """Texts as their sets of words, the rarer the weightier (TF-IDF, cosine): finds names that no vector knows."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = [_words(text) for text in texts]
        self._count = Counter(word for words in self._words for word in words)
        self._places: dict[str, list[int]] = {}
        for place, words in enumerate(self._words):
            for word in words:
                self._places.setdefault(word, []).append(place)
        self._length = np.array([self._norm(words) for words in self._words])

    def resemblance(self, text: str) -> F64:
        """Cosine to all texts (n,), from 0 to 1."""
        return self._resemblance(_words(text))

    def among(self) -> F64:
        """Cosine of all pairs (n, n)."""
        return np.stack([self._resemblance(words) for words in self._words])

    def _resemblance(self, words: set[str]) -> F64:
        shared = np.zeros(len(self._words))
        for word in words & self._places.keys():
            shared[self._places[word]] += self._weight(word) ** 2
        return shared / np.maximum(self._length * self._norm(words), 1e-12)

    def _weight(self, word: str) -> float:
        return float(np.log1p(len(self._words) / (1 + self._count[word])))

    def _norm(self, words: set[str]) -> float:
        return float(np.sqrt(sum(self._weight(word) ** 2 for word in words)))


class Index:
    """The episodes that have a key of one kind: by picture, or by text (half its vector, half its words)."""

    def __init__(self, slots: npt.NDArray[np.int64], keys: F32, texts: Sequence[str] | None = None) -> None:
        self.slots = slots
        self._space = KeySpace(keys)
        self._words = Words(texts) if texts is not None else None
        self._strangers: F64 | None = None

    def scores(self, key: F32, text: str = "") -> F64:
        """Of all episodes (n,), at most 1."""
        scores = self._space.resemblance(key)
        return scores if self._words is None else (scores + self._words.resemblance(text)) / 2

    def confidence(self, score: float) -> float | None:
        """How rarely an episode resembles any other one as much as this: a share below 1. None while there are few.

        A different episode is the model of a photo that was never shown; one remembered twice lowers every share.
        """
        if len(self.slots) < FEW:
            return None
        if self._strangers is None:
            pairs = self._space.among()
            if self._words is not None:
                pairs = (pairs + self._words.among()) / 2
            np.fill_diagonal(pairs, -np.inf)
            self._strangers = np.sort(pairs.max(axis=1))
        return float(np.searchsorted(self._strangers, score) / (len(self.slots) + 1))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
