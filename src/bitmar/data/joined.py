"""Several stores of features as one, with captions and questions of our own in place of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.data.caption_batches import CaptionedFeatures, Tagger


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a photo. questions: by kind, each with its answer."""

    captions: tuple[str, ...]
    questions: tuple[tuple[str, ...], ...] = ()


class Joined:
    """`CaptionedFeatures` of several parts, one after the other.

    parts: stores, each with what is said of its photos, or None for its own captions. A store may stand in it twice:
    its photos then come twice an epoch.
    """

    def __init__(self, parts: Sequence[tuple[CaptionedFeatures, Sequence[Said] | None]]) -> None:
        self.parts = list(parts)
        self.views = min(store.views for store, _ in self.parts)
        self._ends = np.cumsum([len(store) for store, _ in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Which part photo `index` is in, and which of that part's it is."""
        if not 0 <= index < len(self):
            raise IndexError(f"photo {index} of {len(self)}")
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - (int(self._ends[part - 1]) if part else 0)

    def __getitem__(self, index: int) -> Any:
        part, inner = self.place(index)
        store, said = self.parts[part]
        return store[inner] if said is None else said[inner]

    def features(self, index: int, view: int = 0) -> npt.NDArray[np.float32]:
        """(N_p, D_v)"""
        part, inner = self.place(index)
        return self.parts[part][0].features(inner, view)


class JoinedTags:
    """The tags of a `Joined`: taggers of its parts, in their order."""

    def __init__(self, joined: Joined, taggers: Sequence[Tagger]) -> None:
        self._joined, self._taggers = joined, list(taggers)

    def __call__(
        self, images: Sequence[int], views: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Concept numbers and scores (n, k) of n photos, each in one of its views."""
        rows = []
        for image, view in zip(images, views, strict=True):
            part, inner = self._joined.place(image)
            rows.append(self._taggers[part]([inner], [view]))
        ids, scores = zip(*rows, strict=True)
        return np.concatenate(ids), np.concatenate(scores)
