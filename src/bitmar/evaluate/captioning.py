"""How well photos are described: captions of any WebDataset shards, their scores, a control with wrong photos."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bitmar.core.errors import DataError, ImageError
from bitmar.core.image import load_photo
from bitmar.data.features import FeatureStore
from bitmar.data.sources import CaptionedPhoto, OnBad, iter_webdataset
from bitmar.evaluate.coco_metrics import CaptionScores, score, tokenize
from bitmar.evaluate.scorer import Picture, Scorer


@dataclass(frozen=True, slots=True)
class Captioned:
    """A line of a captions file: what the model said about a photo, and what people say."""

    key: str
    caption: str
    references: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {"key": self.key, "caption": self.caption, "references": list(self.references)}


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """Scores of a set of captions.

    photos: scored; unscored: without references. wrong_image: the same captions against the references of the
    next photo, what a model would get that never looks; None for a single photo. words: mean length of a caption.
    distinct: share of captions that no other photo has.
    """

    scores: CaptionScores
    wrong_image: CaptionScores | None
    photos: int
    unscored: int
    words: float
    distinct: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return asdict(self)


def caption_shards(
    model: Scorer,
    patterns: str | Sequence[str],
    *,
    features: FeatureStore | None = None,
    limit: int | None = None,
    beams: int = 1,
    max_tokens: int = 32,
    on_bad: OnBad | None = None,
) -> Iterator[Captioned]:
    """A caption for every photo of WebDataset shards, in their order.

    patterns: as in `iter_webdataset`. features: a store that has these photos' patch features, for a model that was
    trained on them. limit: of photos. A sample that cannot be read goes to `on_bad` and is skipped; a model that
    cannot take such pictures at all is an ImageError.
    """
    report = on_bad or (lambda name, reason: None)
    rows = None if features is None else {entry.key: row for row, entry in enumerate(features.entries)}

    def pictures() -> Iterator[tuple[CaptionedPhoto, Picture]]:
        for sample in islice(iter_webdataset(patterns, report), limit):
            try:
                if features is None or rows is None:
                    yield sample, load_photo(sample.image)
                elif sample.key in rows:
                    yield sample, features.features(rows[sample.key])
                else:
                    report(sample.key, f"{features.folder} has no features of this photo")
            except ImageError as error:
                report(sample.key, str(error))

    waiting = pictures()
    while batch := list(islice(waiting, model.pictures_at_once)):
        texts = model.caption([picture for _, picture in batch], beams=beams, max_tokens=max_tokens)
        for (sample, _), text in zip(batch, texts, strict=True):
            yield Captioned(sample.key, text, sample.captions)


def read_captions(path: str | Path) -> Iterator[Captioned]:
    """The lines of a file that `bitmar caption --data` or anything else wrote. Raises DataError, naming the line."""
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    values = json.loads(line)
                    yield Captioned(str(values["key"]), str(values["caption"]), tuple(map(str, values["references"])))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f'{path}:{number} has no "key", "caption" and "references" ({error!r})') from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def score_captions(lines: Iterable[Captioned]) -> CaptionReport:
    """CIDEr, BLEU and ROUGE-L of captions, and of the same captions beside the wrong photos.

    Raises DataError if none has references, DependencyError if pycocoevalcap or Java is missing.
    """
    everything = list(lines)
    lines = [line for line in everything if line.references]
    if not lines:
        raise DataError(f"none of {len(everything)} captions has references to be scored against")
    captions = tokenize([[line.caption] for line in lines])
    references = tokenize([line.references for line in lines])
    # Every photo gets its neighbour's references: the same sentences as before, so the control differs in nothing else.
    shifted = {i: references[(i + 1) % len(lines)] for i in references}
    texts = [line.caption for line in lines]
    return CaptionReport(
        scores=score(captions, references),
        wrong_image=score(captions, shifted) if len(lines) > 1 else None,
        photos=len(lines),
        unscored=len(everything) - len(lines),
        words=sum(len(text.split()) for text in texts) / len(texts),
        distinct=len(set(texts)) / len(texts),
    )
