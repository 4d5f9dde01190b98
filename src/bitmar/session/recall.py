"""Which of the remembered episodes a picture or a text resembles, and how sure that is.

Keys are centred and whitened (Mahalanobis cosine): what most photos share tells no two of them apart. How photos look
in general, and how one photo's features change from view to view, a model may know from its calibration
(`Background`); without that, and for texts, it is learned from the episodes themselves. While these are few, mean and
covariance are drawn towards "no knowledge": 0, isotropic.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitmar.core.container import Container
from bitmar.core.errors import ImageError
from bitmar.core.tensors import (
    BACKGROUND_MEAN,
    BACKGROUND_PROJECT,
    BACKGROUND_STRANGERS,
    BACKGROUND_WHITEN,
    STRANGERS,
    scale_name,
)
from bitmar.core.ternary import F32
from bitmar.runtime.cache import ImageTokens

FEW = 8  # episodes from which on strangers among them say what a chance resemblance is
_PRIOR = 16  # the covariance counts as much as "isotropic" at this many episodes
_FLOOR = 1e-3  # of the mean variance: directions in which nothing differs are not blown up
_RARER = 10.0  # a photo that resembles another perfectly is taken to be so much rarer than the rarest resemblance seen

F64 = npt.NDArray[np.float64]


TURNS = 4  # quarter turns of a photo that are remembered, so that it is known however the camera was held


@dataclass(frozen=True, slots=True)
class Background:
    """How photos in general look to a model; its file may hold it (`bitmar.session.calibrate` makes it).

    mean (w,), whiten (w, r): what a photo is recognised by, x, becomes (x - mean) @ whiten. strangers (STRANGERS,): the
    resemblance to an episode that a photo of something else exceeds in one case of 1, 10^0.5, 10, ... 10^5. features: x
    is made of the tower's features; else of the vision tokens, as in files of an earlier format.
    """

    mean: F32
    whiten: F32
    strangers: F32
    features: bool = True

    @classmethod
    def of(cls, container: Container) -> Background | None:
        """The model's own, None if its file has none."""
        tensors = container.tensors
        if BACKGROUND_STRANGERS not in tensors:
            return None
        mean, strangers = tensors[BACKGROUND_MEAN], tensors[BACKGROUND_STRANGERS]
        if BACKGROUND_WHITEN in tensors:
            return cls(mean, tensors[BACKGROUND_WHITEN], strangers, features=False)
        codes, scale = tensors[BACKGROUND_PROJECT], tensors[scale_name(BACKGROUND_PROJECT)]
        return cls(mean, np.ascontiguousarray((codes * scale).T), strangers)

    def chance(self, resemblance: float) -> float:
        """How often a photo of something else resembles an episode more than this."""
        seen = np.log(10) / 2 * np.arange(STRANGERS)
        rarity = np.interp(resemblance, [*self.strangers, 1.0], [*seen, seen[-1] + np.log(_RARER)])
        return float(np.exp(-rarity))


class Recognizer:
    """What photos are recalled by.

    With a background of the tower's features: those of the photo, where only what tells photos apart is left, and to
    remember it by, of its four quarter turns. Without: the mean of the vision tokens.
    """

    def __init__(self, background: Background | None, hidden_size: int) -> None:
        self.background = background
        self.turns = TURNS if background is not None and background.features else 1
        one = hidden_size if self.turns == 1 or background is None else background.whiten.shape[1]
        self.width = self.turns * one  # values that an episode keeps

    def key(self, image: ImageTokens) -> F32:
        """What a photo is looked up by."""
        if self.background is None or not self.background.features:
            return token_key(image)
        if image.pooled is None:
            raise ImageError("these ImageTokens do not say what the tower has seen: encode the photo with encode_image")
        white = (spread(image.pooled) - self.background.mean) @ self.background.whiten
        key: F32 = (white / np.maximum(np.linalg.norm(white), 1e-12)).astype(np.float32)
        return key

    def keys(self, images: Sequence[ImageTokens]) -> F32:
        """What an episode keeps of a photo (width,): the keys of its turns, as many as there are, the rest zeros."""
        keys = np.concatenate([self.key(image) for image in images[: self.turns]])
        kept: F32 = np.pad(keys, (0, self.width - len(keys)))
        return kept


def spread(pooled: F32) -> F32:
    """The mean features of photos (..., D_v), of length 1 after the square root, under which frequent features count
    less (the Hellinger distance)."""
    root = np.sign(pooled) * np.sqrt(np.abs(pooled))
    unit: F32 = root / np.maximum(np.linalg.norm(root, axis=-1, keepdims=True), np.float32(1e-12))
    return unit


def token_key(image: ImageTokens) -> F32:
    """The mean of a picture's vision tokens (d,), of root mean square 1.

    The mean neither knows where something stands nor which way it looks, so a crop or a mirror image stays near.
    """
    mean = image.tokens.mean(axis=0)
    key: F32 = mean / np.maximum(np.sqrt(np.mean(mean * mean)), np.float32(1e-12))
    return key


class KeySpace:
    """Keys (n, w), n >= 1, where the angle between two measures how likely both show the same."""

    def __init__(self, keys: F32, background: Background | None = None) -> None:
        exact = keys.astype(np.float64)
        if background is not None:
            self._mean, self._whiten = background.mean.astype(np.float64), background.whiten.astype(np.float64)
        else:
            self._mean, self._whiten = self._learned(exact)
        self.keys = self.enter(exact)

    @staticmethod
    def _learned(keys: F64) -> tuple[F64, F64]:
        trust = len(keys) / (len(keys) + _PRIOR)
        mean = keys.mean(axis=0)
        covariance = (keys - mean).T @ (keys - mean) / len(keys)
        spread = float(np.trace(covariance)) / keys.shape[1] or 1.0
        covariance = trust * covariance + (1 - trust + _FLOOR) * spread * np.eye(keys.shape[1])
        return trust * mean, whitening(covariance)

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


def whitening(covariance: F64) -> F64:
    """The matrix (w, w) that makes rows of this covariance, which is positive definite, isotropic."""
    white: F64 = np.linalg.inv(np.linalg.cholesky(covariance)).T
    return white


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


class TurnedKeys:
    """Photos by the keys of their quarter turns (n, TURNS r); of a photo's turns the nearest counts."""

    def __init__(self, keys: F32 | F64) -> None:
        self.keys = keys.astype(np.float64).reshape(len(keys), TURNS, -1)

    def resemblance(self, key: F32) -> F64:
        """Cosine of one key (r,) to all photos (n,)."""
        cosine: F64 = (self.keys @ key.astype(np.float64)).max(axis=1)
        return cosine

    def among(self) -> F64:
        """Of all pairs (n, n), each looked up as it stood."""
        return np.stack([self.resemblance(key) for key in self.keys[:, 0]])


class Index:
    """The episodes that have a key of one kind: by picture, or by text (half its vector, half its words)."""

    def __init__(
        self,
        slots: npt.NDArray[np.int64],
        keys: F32,
        texts: Sequence[str] | None = None,
        background: Background | None = None,
    ) -> None:
        self.slots = slots
        turned = background is not None and background.features
        self._space: KeySpace | TurnedKeys = TurnedKeys(keys) if turned else KeySpace(keys, background)
        self._background = background
        self._words = Words(texts) if texts is not None else None
        self._strangers: F64 | None = None

    def scores(self, key: F32, text: str = "") -> F64:
        """Of all episodes (n,), at most 1."""
        scores = self._space.resemblance(key)
        return scores if self._words is None else (scores + self._words.resemblance(text)) / 2

    def confidence(self, score: float) -> float | None:
        """How rarely something never seen resembles one of the episodes as much as this: a share below 1.

        With a background, from the resemblances of photos in general. Without, a different episode is the model of
        what was never seen; one remembered twice lowers every share, and while there are few it is None.
        """
        if self._background is not None:
            return float((1 - self._background.chance(score)) ** len(self.slots))
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
