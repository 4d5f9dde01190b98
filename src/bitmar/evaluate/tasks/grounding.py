"""Does the model look? Human captions and its own, scored beside the right picture, a wrong one, and none at all.

A model that never looks says, and thinks likely, the same whatever it is shown: every loss below is then 0. Conditions
are compared photo by photo, so the intervals hold the difference and not the spread of captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bitmar.core.errors import DataError
from bitmar.data.text import clean_caption
from bitmar.evaluate.coco_metrics import Tokenized, cider_by_photo
from bitmar.evaluate.figure import F64, Figure
from bitmar.evaluate.protocol import OnProgress, Picture, Scorer

RIGHT, SHUFFLED, BLANK, NONE = "right", "shuffled", "blank", "none"


@dataclass(frozen=True, slots=True)
class Beside:
    """Human captions beside one kind of picture.

    perplexity: per token. loss: how many nats a token costs more than beside the right picture (None for the right
    one itself). right_wins: share of photos whose captions are likelier beside the right picture, ties as halves.
    """

    perplexity: Figure
    loss: Figure | None
    right_wins: float | None


@dataclass(frozen=True, slots=True)
class Spoken:
    """The model's captions against a photo's references. cider: as in the reports. loss: of CIDEr, against the captions
    of the right picture (None for those)."""

    cider: Figure
    loss: Figure | None


@dataclass(frozen=True, slots=True)
class GroundingReport:
    """How much the model gains from pictures.

    likelihood: by "right", "shuffled" (the photo before), "blank" (grey), "none" (no picture). cider: by "right",
    "shuffled", "blank" (one caption, blank_caption, for every photo). photos, captions, tokens: scored.
    """

    likelihood: dict[str, Beside]
    cider: dict[str, Spoken]
    blank_caption: str
    photos: int
    captions: int
    tokens: int


def blank_picture(like: Picture) -> Picture:
    """A picture that shows nothing: zeros in place of patch features, and in place of a photo a grey one."""
    if isinstance(like, np.ndarray) and np.issubdtype(like.dtype, np.floating):
        return np.zeros_like(like)
    return Image.new("RGB", (224, 224), (128, 128, 128))


def measure_likelihood(
    model: Scorer,
    pictures: Sequence[Picture],
    captions: Sequence[Sequence[str]],
    blank: Picture,
    *,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Beside], int, int]:
    """The captions of each picture (at least two pictures) under all conditions; also how many captions, and tokens.

    `on_progress(n)`: captions that are done, of four times as many as there are. Captions are cleaned as they are for
    training. Raises DataError where there is nothing to shuffle.
    """
    n = len(pictures)
    if n < 2:
        raise DataError("the grounding test shuffles pictures: give it at least two photos with captions")
    texts, owners = [], []
    for owner, group in enumerate(captions):
        for text in filter(None, map(clean_caption, group)):
            texts.append(text)
            owners.append(owner)
    shown: dict[str, Sequence[Picture | None] | None] = {
        RIGHT: [pictures[owner] for owner in owners],
        SHUFFLED: [pictures[owner - 1] for owner in owners],
        BLANK: [blank] * len(texts),
        NONE: None,
    }
    losses, tokens = {}, np.zeros(n)
    for number, (name, images) in enumerate(shown.items()):
        scores = model.loglikelihood(texts, images, on_progress=_later(on_progress, number * len(texts)))
        losses[name], tokens = np.zeros(n), np.zeros(n)
        for owner, score in zip(owners, scores, strict=True):
            losses[name][owner] -= score.sum(dtype="float64")
            tokens[owner] += len(score)
    if not tokens.sum():
        raise DataError("the captions of these photos hold no words to be scored")
    beside = {name: _beside(losses[name], losses[RIGHT], tokens, name == RIGHT) for name in shown}
    return beside, len(texts), int(tokens.sum())


def _beside(losses: F64, right: F64, tokens: F64, is_right: bool) -> Beside:
    perplexity = Figure.bootstrap(losses, tokens).map(math.exp)
    if is_right:
        return Beside(perplexity, None, None)
    wins = np.where(losses == right, 0.5, losses > right)
    return Beside(perplexity, Figure.bootstrap(losses - right, tokens), float(wins.mean()))


def _later(on_progress: OnProgress | None, done: int) -> Callable[[int], None] | None:
    return None if on_progress is None else lambda count: on_progress(done + count)


def compare_captions(captions: Tokenized, references: Tokenized, blank: Sequence[str]) -> dict[str, Spoken]:
    """CIDEr of the captions of n photos, of those of the photo before, and of one blank caption (tokenized) for all.

    The captions of a shuffled picture are those that it got under its own key: greedy and beam search say the same.
    """
    n = len(references)
    right = cider_by_photo(captions, references)
    found = {
        SHUFFLED: cider_by_photo({i: captions[(i - 1) % n] for i in captions}, references),
        BLANK: cider_by_photo({i: list(blank) for i in captions}, references),
    }
    spoken = {RIGHT: Spoken(Figure.bootstrap(right), None)}
    return spoken | {
        name: Spoken(Figure.bootstrap(each), Figure.bootstrap(right - each)) for name, each in found.items()
    }
