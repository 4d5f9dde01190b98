"""Concepts as training rows see them: of photos, by a bank that has not seen them; of plain captions, made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save

from bitmar.core.files import write_atomically
from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts.bank import F32, ConceptBank

I64 = npt.NDArray[np.int64]

_BLOCK = 256  # photos at a time
_HEARD = 0.8  # share of a caption's concepts among its tags


def best(scores: F32, k: int) -> tuple[I64, F32]:
    """Scores (n, K) -> the k best concepts of each row, best first, and their scores (n, k)."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)
    return order, np.take_along_axis(scores, order, 1)


class PhotoTags:
    """The tags of every view of a store's photos. Photo i's come from bank i mod n, which was fitted without it."""

    def __init__(self, pooled: F32, banks: Sequence[ConceptBank], k: int) -> None:
        """pooled: mean patch features (n, views, D_v)."""
        photos, views, width = pooled.shape
        self.ids = np.empty((photos, views, k), np.int16)
        self.scores = np.empty((photos, views, k), np.float16)
        for fold, bank in enumerate(banks):
            for start in range(fold, photos, _BLOCK * len(banks)):
                rows = slice(start, start + _BLOCK * len(banks), len(banks))
                ids, scores = best(bank.scores(pooled[rows].reshape(-1, width)), k)
                self.ids[rows], self.scores[rows] = ids.reshape(-1, views, k), scores.reshape(-1, views, k)

    @classmethod
    def load(cls, path: Path) -> PhotoTags:
        """Read what `save` wrote."""
        tags, kept = cls.__new__(cls), load_file(path)
        tags.ids, tags.scores = kept["ids"], kept["scores"]
        return tags

    def save(self, path: Path) -> None:
        """As safetensors."""
        write_atomically(path, save({"ids": self.ids, "scores": self.scores}))

    def __call__(self, images: Sequence[int], views: Sequence[int]) -> tuple[I64, F32]:
        """Concept numbers and scores (n, k) of n photos, each in one of its views."""
        return self.ids[images, views].astype(np.int64), self.scores[images, views].astype(np.float32)


class MadeUpTags:
    """Tags for captions without a photo, as wrong and as right as those of photos.

    Learned from captioned photos: the scores of concepts that their captions name, and of those that they do not. A
    caption's own concepts get scores of the first kind; the others come from some photo, less what its captions name.
    """

    def __init__(self, vocabulary: Vocabulary, ids: I64, scores: F32, named: npt.NDArray[np.bool_]) -> None:
        """ids, scores (n, k): tags of photos; named (n, K): what their captions name."""
        self.vocabulary, self.k = vocabulary, ids.shape[1]
        self._ids, self._scores = ids, scores
        self._right = np.take_along_axis(named, ids, 1)
        self._pool = np.sort(scores[self._right]) if self._right.any() else np.sort(scores[:, 0])

    def __call__(self, caption: str, rng: np.random.Generator) -> tuple[I64, F32]:
        """Concept numbers and scores (k,), best first."""
        own = [c for c in self.vocabulary.find(caption) if rng.random() < _HEARD][: self.k]
        photo = int(rng.integers(len(self._ids)))
        wrong = ~self._right[photo] & ~np.isin(self._ids[photo], own)
        ids = np.concatenate((np.array(own, np.int64), self._ids[photo][wrong]))
        scores = np.concatenate((rng.choice(self._pool, len(own)), self._scores[photo][wrong])).astype(np.float32)
        while len(ids) < self.k:  # what a photo had right leaves room
            more = int(rng.integers(len(self.vocabulary)))
            if more not in ids:
                ids, scores = np.append(ids, more), np.append(scores, np.float32(scores.min(initial=0.1)))
        order = np.argsort(-scores, kind="stable")[: self.k]
        return ids[order], scores[order]
