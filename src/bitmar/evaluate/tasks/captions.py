"""How well photos are described: captions of any WebDataset shards, their scores, a control with wrong photos."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bitmar.core.errors import DataError, ImageError
from bitmar.core.image import load_photo
from bitmar.data.features import FeatureStore
from bitmar.data.sources import CaptionedPhoto, OnBad, iter_webdataset
from bitmar.evaluate.coco_metrics import CaptionScores, cider_by_photo, java_scores, score, tokenize
from bitmar.evaluate.figure import Figure
from bitmar.evaluate.protocol import OnProgress, Picture, PictureScorer, Scorer
from bitmar.evaluate.store import ResultLog
from bitmar.evaluate.tasks.grounding import GroundingReport, blank_picture, compare_captions, measure_likelihood

_JAVA = ("meteor", "spice")
_WORD = re.compile(r"\w")  # a reference without is empty to the metrics, which then fail


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

    cider: the one of `scores` with its interval over photos. java: METEOR and SPICE as far as they could be had;
    absent: why they could not. photos: scored; unscored: without references. wrong_image: the same captions against the
    references of the next photo, what a model would get that never looks; None for a single photo. words: mean length
    of a caption. distinct: share of captions that no other photo has.
    """

    scores: CaptionScores
    wrong_image: CaptionScores | None
    photos: int
    unscored: int
    words: float
    distinct: float
    cider: Figure
    java: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


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
    waiting = read_pictures(patterns, features=features, limit=limit, on_bad=on_bad)
    while batch := list(islice(waiting, model.pictures_at_once)):
        texts = model.caption([picture for _, picture in batch], beams=beams, max_tokens=max_tokens)
        for (sample, _), text in zip(batch, texts, strict=True):
            yield Captioned(sample.key, text, sample.captions)


def read_pictures(
    patterns: str | Sequence[str],
    *,
    features: FeatureStore | None = None,
    limit: int | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[tuple[CaptionedPhoto, Picture]]:
    """The photos of WebDataset shards as a model takes them: decoded, or as the patch features that a store has.

    limit: of samples read. A sample that cannot be used goes to `on_bad` and is skipped.
    """
    report = on_bad or (lambda name, reason: None)
    for sample in islice(iter_webdataset(patterns, report), limit):
        try:
            if features is None:
                yield sample, load_photo(sample.image)
            elif (row := features.row_of(sample)) is not None:
                yield sample, features.features(row)
            else:
                report(sample.key, f"{features.folder} has no features of this photo")
        except ImageError as error:
            report(sample.key, str(error))


def look_at_all(
    model: PictureScorer,
    patterns: str | Sequence[str],
    *,
    features: FeatureStore | None = None,
    limit: int | None = None,
    on_bad: OnBad | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[list[Picture], list[tuple[str, ...]]]:
    """Every photo of `read_pictures` as the model sees it, and its captions. `on_progress(n)`: photos seen."""
    pictures: list[Picture] = []
    captions: list[tuple[str, ...]] = []
    for sample, picture in read_pictures(patterns, features=features, limit=limit, on_bad=on_bad):
        pictures += model.look([picture])
        captions.append(sample.captions)
        if on_progress is not None:
            on_progress(len(pictures))
    return pictures, captions


def score_captions(lines: Iterable[Captioned], *, java: bool = False) -> CaptionReport:
    """CIDEr, BLEU and ROUGE-L of captions, and of the same captions beside the wrong photos.

    java: METEOR and SPICE as well, which take gigabytes of memory. Raises DataError if none has references,
    DependencyError if pycocoevalcap or Java is missing.
    """
    everything = list(lines)
    lines = [line for line in everything if any(_WORD.search(text) for text in line.references)]
    if not lines:
        raise DataError(f"none of {len(everything)} captions has references to be scored against")
    captions = tokenize([[line.caption] for line in lines])
    references = tokenize([[text for text in line.references if _WORD.search(text)] for line in lines])
    # Every photo gets its neighbour's references: the same sentences as before, so the control differs in nothing else.
    shifted = {i: references[(i + 1) % len(lines)] for i in references}
    texts = [line.caption for line in lines]
    found, absent = java_scores(captions, references) if java else ({}, dict.fromkeys(_JAVA, "not asked for"))
    return CaptionReport(
        scores=score(captions, references),
        wrong_image=score(captions, shifted) if len(lines) > 1 else None,
        photos=len(lines),
        unscored=len(everything) - len(lines),
        words=sum(len(text.split()) for text in texts) / len(texts),
        distinct=len(set(texts)) / len(texts),
        cider=Figure.bootstrap(cider_by_photo(captions, references)),
        java=found,
        absent=absent,
    )


@dataclass(frozen=True, slots=True)
class CaptionEvaluation:
    """The result of `bitmar eval caption`. grounding: None where it was not asked for. lines: the captions."""

    captions: CaptionReport
    grounding: GroundingReport | None
    lines: tuple[Captioned, ...]


def evaluate_captions(
    model: PictureScorer,
    patterns: str | Sequence[str],
    *,
    features: FeatureStore | None = None,
    limit: int | None = None,
    beams: int = 1,
    max_tokens: int = 32,
    grounding: int = 1000,
    java: bool = True,
    log: ResultLog | None = None,
    on_bad: OnBad | None = None,
    on_caption: OnProgress | None = None,
    on_grounding: OnProgress | None = None,
) -> CaptionEvaluation:
    """Caption the photos of shards, score the captions, and test on the first `grounding` photos whether it looks.

    limit, features, on_bad: as in `read_pictures`. grounding: photos with references that the test takes, 0 for none.
    java: METEOR and SPICE too. log: keeps the captions, so that a killed run goes on; its task must name the model, the
    features and the options. `on_caption(n)`: photos captioned; `on_grounding(n)`: captions scored, of four times as
    many as there are. Raises DataError, DependencyError, and ImageError for a model that cannot take these pictures.
    """
    lines: list[Captioned] = []
    pictures: list[Picture] = []  # of the grounding test, as the tower left them
    tested: list[int] = []  # their places in `lines`
    waiting = read_pictures(patterns, features=features, limit=limit, on_bad=on_bad)
    blank: Picture | None = None
    while batch := list(islice(waiting, model.pictures_at_once)):
        blank = blank_picture(batch[0][1]) if blank is None else blank
        names = [sample.digest for sample, _ in batch]  # what a photo is called may change between two runs
        known = {} if log is None else log.found
        wanted = [name not in known or len(pictures) < grounding for name in names]
        seen = model.look([picture for (_, picture), want in zip(batch, wanted, strict=True) if want])
        looked = dict(zip([name for name, want in zip(names, wanted, strict=True) if want], seen, strict=True))
        new = [name for name in looked if name not in known]
        texts = dict(
            zip(new, model.caption([looked[name] for name in new], beams=beams, max_tokens=max_tokens), strict=True)
        )
        for name, (sample, _) in zip(names, batch, strict=True):
            if name in texts and log is not None:
                log.put(name, texts[name])
            if name in looked and any(map(_WORD.search, sample.captions)) and len(pictures) < grounding:
                pictures.append(looked[name])
                tested.append(len(lines))
            lines.append(Captioned(sample.key, texts[name] if name in texts else known[name], sample.captions))
        if on_caption is not None:
            on_caption(len(lines))
    report = score_captions(lines, java=java)
    found = None
    if grounding and blank is not None:
        found = _ground(model, pictures, [lines[i] for i in tested], blank, beams, max_tokens, on_grounding)
    return CaptionEvaluation(report, found, tuple(lines))


def _ground(
    model: PictureScorer,
    pictures: Sequence[Picture],
    lines: Sequence[Captioned],
    blank: Picture,
    beams: int,
    max_tokens: int,
    on_progress: OnProgress | None,
) -> GroundingReport:
    (seen,) = model.look([blank])
    (said,) = model.caption([seen], beams=beams, max_tokens=max_tokens)
    likelihood, captions, tokens = measure_likelihood(
        model, pictures, [line.references for line in lines], seen, on_progress=on_progress
    )
    cider = compare_captions(
        tokenize([[line.caption] for line in lines]),
        tokenize([line.references for line in lines]),
        tokenize([[said]])[0],
    )
    return GroundingReport(likelihood, cider, said, len(lines), captions, tokens)
