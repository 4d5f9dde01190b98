"""Scorers by rule, for tests that need to know what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rule = Callable[[Any, Any], Sequence[float]]
VOCABULARY = 50


def uniform(text: Any, image: Any) -> list[float]:
    """What a model without knowledge says."""
    return [-float(np.log(VOCABULARY))] * len(text)


class FakeScorer:
    """Log-probabilities of a text (its length in items) beside a picture, by a rule; pictures are taken as they are.

    caption: the value at the top left corner of the picture. embed: texts by `vectors`, pictures by their first row.
    """

    name, pictures_at_once, has_tower, vocab_size, rounding = "fake", 2, True, VOCABULARY, 0.0

    def __init__(self, rule: Rule = uniform, vectors: dict[str, Sequence[float]] | None = None) -> None:
        self.rule, self.vectors = rule, vectors or {}
        self.slots = np.zeros((2, 3), np.float32)

    def loglikelihood(self, texts, images=None, *, on_progress=None) -> list[np.ndarray]:
        shown = images or [None] * len(texts)
        scores = [np.array(self.rule(text, image), np.float32) for text, image in zip(texts, shown, strict=True)]
        if on_progress is not None:
            on_progress(len(texts))
        return scores

    def caption(self, images, *, beams=1, max_tokens=32) -> list[str]:
        return [f"A thing of {np.asarray(image).flat[0]:.0f}." for image in images]

    def look(self, pictures) -> list[Any]:
        return list(pictures)

    def embed(self, texts=(), images=()) -> tuple[np.ndarray, np.ndarray]:
        written = np.array([self.vectors[text] for text in texts], np.float32)
        return written, np.array([np.asarray(image)[0] for image in images], np.float32)

    def evidence(self, question: str, answer: str, picture: object) -> float:
        return 0.0

    def remembered(self, text: str) -> np.ndarray | None:
        return self.slots + len(text)
