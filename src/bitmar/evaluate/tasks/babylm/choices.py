"""Tasks of one kind: of several texts, is the right one the likeliest? As the pipeline scores them.

A text's score is the sum of the log-probabilities of the tokens that reach past a character: the start of the text, or
the place where the completion begins. Where the pipeline takes the first of two that are equally likely, which is
always the right one, a tie counts here as what guessing among them would bring: a half of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.errors import ConfigError, DataError, ImageError
from bitmar.core.image import load_photo
from bitmar.data.archives import Record, read_records
from bitmar.evaluate.figure import F64, Figure, shares
from bitmar.evaluate.protocol import OnProgress, Picture, PictureScorer, Scorer
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work

_PHOTOS = 32  # in memory at the same time


@dataclass(frozen=True, slots=True)
class Choice:
    """options: whole texts, the right one first; starts: where the scored part begins, in characters.

    uid: the group whose accuracies are averaged. kinds: other ways to sort the items, by name. picture: a file.
    """

    options: tuple[str, ...]
    starts: tuple[int, ...]
    uid: str
    kinds: dict[str, str] = field(default_factory=dict)
    picture: Path | None = None

    @classmethod
    def whole(cls, options: Sequence[str], uid: str, **more: Any) -> Choice:
        """Options that are scored from their first token on."""
        return cls(tuple(options), (0,) * len(options), uid, **more)

    @classmethod
    def completed(cls, prefixes: Sequence[str], completions: Sequence[str], uid: str, **more: Any) -> Choice:
        """Options that are scored given their prefix."""
        options = tuple(prefix + rest for prefix, rest in zip(prefixes, completions, strict=True))
        return cls(options, tuple(map(len, prefixes)), uid, **more)


def score_texts(
    scorer: Scorer,
    texts: Sequence[str],
    starts: Sequence[int],
    images: Sequence[Picture | None] | None = None,
    on_progress: OnProgress | None = None,
) -> F64:
    """Log-probability (n,) of each text from a character on, counting the tokens that end after it."""
    sums = []
    rows = scorer.loglikelihood(texts, images, on_progress=on_progress)
    for text, start, row in zip(texts, starts, rows, strict=True):
        if start:
            offsets = tokenizer_of(scorer).encode(text, add_special_tokens=False).offsets
            row = row[[end > start for _, end in offsets]]
        sums.append(row.sum(dtype=np.float64))
    return np.array(sums)


def score_choices(scorer: Scorer, choices: Sequence[Choice], work: Work) -> list[F64]:
    """The log-probability of each option of each choice; none of them has a picture."""
    texts = [text for choice in choices for text in choice.options]
    starts = [start for choice in choices for start in choice.starts]
    sums = score_texts(scorer, texts, starts, on_progress=work.progress(work.name, len(texts)))
    return np.split(sums, np.cumsum([len(choice.options) for choice in choices])[:-1])


def score_pictured(scorer: PictureScorer, choices: Sequence[Choice], work: Work) -> tuple[list[Choice], list[F64]]:
    """The same log-probabilities, given pictures.

    A choice whose picture cannot be read is reported and left out of both lists; none that can: DataError.
    """
    kept: list[Choice] = []
    scores: list[F64] = []
    for start in range(0, len(choices), _PHOTOS):
        seen, photos = [], []
        for choice in choices[start : start + _PHOTOS]:
            assert choice.picture is not None
            try:
                photos.append(load_photo(choice.picture))
            except ImageError as error:
                work.on_bad(str(choice.picture), str(error))
                continue
            seen.append(choice)
        if seen:
            counts = [len(choice.options) for choice in seen]
            images = [look for look, count in zip(scorer.look(photos), counts, strict=True) for _ in range(count)]
            texts = [text for choice in seen for text in choice.options]
            starts = [first for choice in seen for first in choice.starts]
            scores += np.split(score_texts(scorer, texts, starts, images), np.cumsum(counts)[:-1])
            kept += seen
        work.on_step(work.name, min(start + _PHOTOS, len(choices)), len(choices))
    if not kept:
        raise DataError(f"not one picture can be read, the first of them {choices[0].picture}")
    return kept, scores


def points_of(scores: F64) -> float:
    """1 if the first option is the likeliest, 0 if it is not, 1/m if it is one of m that are."""
    winners = scores == scores.max()
    return float(winners[0]) / int(winners.sum())


Weigh = Callable[[Sequence[str]], dict[str, float]]


def judge(choices: Sequence[Choice], scores: Sequence[F64], weigh: Weigh | None = None) -> Score:
    """The mean accuracy over the groups; weigh(uids): their weights where they are not even."""
    points = [points_of(some) for some in scores]
    uids = [choice.uid for choice in choices]
    parts = {"UID": shares(points, uids)}
    for kind in choices[0].kinds:
        parts[kind] = shares(points, [choice.kinds[kind] for choice in choices])
    chance = sum(1 / len(choice.options) for choice in choices) / len(choices)
    weights = weigh(list(parts["UID"])) if weigh else None
    return Score("accuracy", Figure.mean_share(points, uids, weights, chance=chance), parts)


def choice_task(
    name: str, decode: Callable[[Record, str], Choice], weigh: Weigh | None = None
) -> Callable[[Scorer, Path, Work], dict[str, Score]]:
    """A task of texts: the mean over groups, by `weigh` where they are not even, of the accuracy in each."""

    def evaluate(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
        choices = work.some(read_records(source, decode, work.on_bad))
        return {name: judge(choices, score_choices(scorer, choices, work), weigh)}

    return evaluate


def tokenizer_of(scorer: Scorer) -> Tokenizer:
    """The tokenizer of a scorer: its own, or its model's. Raises ConfigError if there is none."""
    for holder in (scorer, getattr(scorer, "model", None)):
        tokenizer = getattr(holder, "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):
            return tokenizer
    raise ConfigError(f"{scorer.name} shows no tokenizer: tasks that score part of a text need it")
