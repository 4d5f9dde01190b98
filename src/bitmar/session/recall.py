"""Which of the remembered episodes a picture or a text resembles, and how sure that is.

Keys are centred and whitened (Mahalanobis cosine): what most photos share tells no two of them apart. How photos look
in general, and how one photo's features change from view to view, a model may know from its calibration
(`Background`); without that, and for texts, it is learned from the episodes themselves. While these are few, mean and
covariance are drawn towards "no knowledge": 0, isotropic.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from bitmar.session.layout import Ints

FEW = 8  # episodes from which on strangers among them say what a chance resemblance is
_PRIOR = 16  # the covariance counts as much as "isotropic" at this many episodes
_FLOOR = 1e-3  # of the mean variance: directions in which nothing differs are not blown up
_RARER = 10.0  # a photo that resembles another perfectly is taken to be so much rarer than the rarest resemblance seen

_TEACHERS = 4096  # episodes from which a space is learned: with more of them, those in the first slots
_ASKED, _ASKED_BY_TEXT = 512, 128  # episodes that say what a chance resemblance is, where there are more than 512
_PAIRS, _AT_ONCE = 32, 4096  # of these, and of keys, at a time
_WORDS = 1024  # that no text has any more and that are kept nevertheless

F64 = npt.NDArray[np.float64]
_NOTHING: Ints = np.zeros(0, np.int64)


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
    """The keys by which photos are recalled.

    With a background of the tower's features: those of the photo, where only what tells photos apart is left, and to
    remember it by, of its four quarter turns. Without: the mean of the vision tokens.
    """

    def __init__(self, background: Background | None, hidden_size: int) -> None:
        self.background = background
        self.turns = TURNS if background is not None and background.features else 1
        one = hidden_size if self.turns == 1 or background is None else background.whiten.shape[1]
        self.width = self.turns * one  # values that an episode keeps

    def key(self, image: ImageTokens) -> F32:
        """The key to look a photo up by."""
        if self.background is None or not self.background.features:
            return token_key(image)
        if image.pooled is None:
            raise ImageError("these ImageTokens do not say what the tower has seen: encode the photo with encode_image")
        white = (spread(image.pooled) - self.background.mean) @ self.background.whiten
        key: F32 = (white / np.maximum(np.linalg.norm(white), 1e-12)).astype(np.float32)
        return key

    def keys(self, images: Sequence[ImageTokens]) -> F32:
        """An episode's key of a photo (width,): the keys of its turns, as many as there are, the rest zeros."""
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
    """Keys (n, w) where the angle between two measures how likely both show the same.

    rows: those of the keys that hold one, ascending; all of them by default; with none, `follow` must say which.
    """

    def __init__(self, keys: F32, background: Background | None = None, rows: Ints | None = None) -> None:
        self._raw, self._background = keys, background
        self._learned_from = -1  # the last of the rows from which mean and covariance are learned
        if background is not None:
            self._mean, self._whiten = background.mean.astype(np.float64), background.whiten.astype(np.float64)
        width = keys.shape[1] if background is None else background.whiten.shape[1]
        self.keys: F32 = np.zeros((len(keys), width), np.float32)
        rows = np.arange(len(keys)) if rows is None else rows
        if len(rows):
            self.follow(rows, rows)

    def follow(self, changed: Ints, rows: Ints) -> None:
        """The keys of `changed`, ascending, are others than before; those of `rows`, n >= 1, are there."""
        self._end = int(rows[-1]) + 1
        self.keys[changed] = 0
        taught = rows[:_TEACHERS]
        if self._background is None and len(changed) and changed[0] <= max(self._learned_from, taught[-1]):
            self._mean, self._whiten = self._learned(self._raw[taught].astype(np.float64))
            self._learned_from, changed = int(taught[-1]), rows
        there = np.intersect1d(changed, rows, assume_unique=True)
        for start in range(0, len(there), _AT_ONCE):
            some = there[start : start + _AT_ONCE]
            self.keys[some] = self.enter(self._raw[some])

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

    def resemblance(self, key: F32) -> F32:
        """Cosine of one key (w,) to all up to the last row."""
        cosine: F32 = self.keys[: self._end] @ self.enter(key).astype(np.float32)
        return cosine

    def among(self, rows: Ints | None = None) -> F32:
        """Cosine of these, by default of all, to all up to the last row, (m, n)."""
        cosine: F32 = self.keys[slice(self._end) if rows is None else rows] @ self.keys[: self._end].T
        return cosine


def whitening(covariance: F64) -> F64:
    """The matrix (w, w) that makes rows of this covariance, which is positive definite, isotropic."""
    white: F64 = np.linalg.inv(np.linalg.cholesky(covariance)).T
    return white


class Words:
    """Texts as their sets of words, the rarer the weightier (TF-IDF, cosine): finds names that no vector knows."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._number: dict[str, int] = {}  # of each word that any text has had
        self._words: list[Ints] = []  # of each text, the numbers of its words
        self.follow(range(len(texts)), texts, len(texts))

    def follow(self, rows: Iterable[int], texts: Iterable[str], count: int) -> None:
        """The texts of these rows are others than before; `count` of all are there, the others are empty."""
        for row, text in zip(rows, texts, strict=True):
            self._words.extend([_NOTHING] * (row + 1 - len(self._words)))
            number = [self._number.setdefault(word, len(self._number)) for word in sorted(_words(text))]
            self._words[row] = np.array(number, np.int64)
        flat: Ints = np.concatenate([_NOTHING, *self._words])
        said = np.bincount(flat, minlength=len(self._number))
        if len(said) > 2 * np.count_nonzero(said) + _WORDS:
            self._forget_words(said > 0)
            flat, said = np.concatenate(self._words), said[said > 0]
        text_of = np.repeat(np.arange(len(self._words)), np.fromiter(map(len, self._words), np.int64))
        few = flat.astype(np.min_scalar_type(len(said)))  # 16 bits, in most memories, sort much faster
        self._texts = text_of[np.argsort(few, kind="stable")]  # that say the first word, the second, ...
        self._end = np.cumsum(said)
        self._begin = self._end - said
        self._unknown = float(np.log1p(count)) ** 2
        self._weight = np.log1p(count / (1 + said)) ** 2  # squared
        self._length = np.sqrt(np.bincount(text_of, weights=self._weight[flat], minlength=len(self._words)))

    def resemblance(self, text: str) -> F64:
        """Cosine to all texts (n,), from 0 to 1."""
        words = _words(text)
        known = np.array([self._number[word] for word in words if word in self._number], np.int64)
        return self._resemblance(known, len(words) - len(known))

    def among(self, rows: Ints | None = None) -> F64:
        """Cosine of these, by default of all, to all texts (m, n)."""
        chosen = range(len(self._words)) if rows is None else rows.tolist()
        return np.stack([self._resemblance(self._words[row], 0) for row in chosen])

    def _resemblance(self, known: Ints, unknown: int) -> F64:
        shared = np.zeros(len(self._words))
        for word in known.tolist():
            shared[self._texts[self._begin[word] : self._end[word]]] += self._weight[word]
        norm = np.sqrt(self._weight[known].sum() + unknown * self._unknown)
        cosine: F64 = shared / np.maximum(self._length * norm, 1e-12)
        return cosine

    def _forget_words(self, said: npt.NDArray[np.bool_]) -> None:
        """Number the words anew without those that no text has any more."""
        number: Ints = np.cumsum(said) - 1
        self._number = {word: int(number[old]) for word, old in self._number.items() if said[old]}
        self._words = [number[words] for words in self._words]


class TurnedKeys:
    """Photos by the keys of their quarter turns (n, TURNS r); of a photo's turns the nearest counts."""

    def __init__(self, keys: F32 | F64) -> None:
        self._keys, self._end = keys, len(keys)

    def follow(self, changed: Ints, rows: Ints) -> None:
        """The keys of `changed` are others than before; those of `rows`, n >= 1, are there."""
        self._end = int(rows[-1]) + 1

    def resemblance(self, key: F32 | F64) -> Any:
        """Cosine of one key (r,) to all photos up to the last row."""
        return (self._keys[: self._end].reshape(-1, len(key)) @ key).reshape(-1, TURNS).max(axis=1)

    def among(self, rows: Ints | None = None) -> Any:
        """Of these, by default of all, to all (m, n), each looked up as it stood."""
        upright = self._keys[:, : self._keys.shape[1] // TURNS]
        return np.stack([self.resemblance(key) for key in (upright if rows is None else upright[rows])])


class Index:
    """The episodes that have a key of one kind: by picture, or by text (half its vector, half its words).

    slots: where they are, ascending. keys (K, w) and texts: of every slot; those of slots without one do not count.
    """

    def __init__(
        self,
        slots: Ints,
        keys: F32,
        texts: Mapping[int, str] | None = None,
        background: Background | None = None,
    ) -> None:
        self._texts, self._background = texts, background
        turned = background is not None and background.features
        self._space: KeySpace | TurnedKeys = TurnedKeys(keys) if turned else KeySpace(keys, background, _NOTHING)
        self._words = None if texts is None else Words([])
        self.follow(slots, slots)

    def follow(self, changed: Ints, slots: Ints) -> None:
        """The episodes of `changed`, ascending, are others than before; those in `slots` are there, at least one."""
        self.slots = slots
        self._strangers: F64 | None = None
        self._space.follow(changed, slots)
        if self._words is not None and self._texts is not None:
            there = np.isin(changed, slots).tolist()
            texts = [self._texts[slot] if has else "" for slot, has in zip(changed.tolist(), there, strict=True)]
            self._words.follow(changed.tolist(), texts, len(slots))

    def scores(self, key: F32, text: str = "") -> F64:
        """Of all episodes (n,), at most 1."""
        found = self._space.resemblance(key)[self.slots].astype(np.float64)
        scores: F64 = np.minimum(found, 1)  # which float32's last bit may exceed
        return scores if self._words is None else (scores + self._words.resemblance(text)[self.slots]) / 2

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
            self._strangers = self._nearest()
        return float(np.searchsorted(self._strangers, score) / (len(self._strangers) + 1))

    def _nearest(self) -> F64:
        """How much each episode, or of many some, resembles the nearest other one, ascending."""
        most = _ASKED if self._words is None else _ASKED_BY_TEXT
        asked = self.slots
        if len(asked) > _ASKED:
            asked = asked[np.linspace(0, len(asked) - 1, most).astype(np.int64)]
        nearest = []
        for start in range(0, len(asked), _PAIRS):
            some = asked[start : start + _PAIRS]
            pairs = self._space.among(some)
            if self._words is not None:
                pairs = (pairs + self._words.among(some)[:, : pairs.shape[1]]) / 2
            pairs[np.arange(len(some)), some] = -np.inf
            nearest.append(pairs[:, self.slots].max(axis=1))
        return np.sort(np.concatenate(nearest))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
