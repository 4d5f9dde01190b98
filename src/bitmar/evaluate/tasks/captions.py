"""How well photos are described: captions of any WebDataset shards, their scores, a control with wrong photos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from bitmar.core.errors import DataError
from bitmar.core.files import write_atomically
from bitmar.data.features import FeatureStore
from bitmar.data.sources import CaptionedPhoto
from bitmar.evaluate.caption_result import CaptionResult, keep_caption
from bitmar.evaluate.cluster import caption_on
from bitmar.evaluate.coco_metrics import CaptionScores, cider_by_photo, java_scores, score, tokenize
from bitmar.evaluate.figure import Figure, plain
from bitmar.evaluate.photos import read_pictures
from bitmar.evaluate.protocol import Picture, PictureScorer
from bitmar.evaluate.tables import Cell, Cells, Results, Table, missing, number, ranged
from bitmar.evaluate.task import Features, Option, Shards
from bitmar.evaluate.tasks.grounding import GroundingReport, blank_picture, compare_captions, measure_likelihood
from bitmar.evaluate.work import Work

_JAVA = ("meteor", "spice")
_WORD = re.compile(r"\w")  # a reference without is empty to the metrics, which then fail
_NAMES = {"bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L"}
_BESIDE = {"right": "right photo", "shuffled": "another photo", "blank": "a blank one", "none": "no photo"}
_BEAMS = "Beam search with N beams; 1 is greedy. By default the one of several captions that the photo bears out."


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Shards,
    features: Features = None,
    beams: Annotated[int | None, Option(_BEAMS, "N")] = None,
    max_tokens: Annotated[int, Option("Longest caption, in tokens.")] = 32,
    grounding: Annotated[
        int, Option("Photos of the grounding test, shown shuffled and blank too; 0 for none.", least=0)
    ] = 1000,
    java: Annotated[bool, Option("METEOR and SPICE, which take gigabytes of memory.")] = True,
    captions: Annotated[Path | None, Option("Write the captions here, a JSON line each.", "FILE")] = None,
    cluster: Annotated[str | None, Option("Caption on the nodes of a Ray cluster.", "auto|HOST:PORT")] = None,
) -> dict[str, Any]:
    """Caption photos and score the captions against people's: CIDEr, BLEU, METEOR, ROUGE-L, SPICE.

    The grounding test shows the model wrong, blank and no photos; the loss is what the right photo is worth.
    With --json FILE a killed run resumes with the same command.
    """
    if cluster is not None:
        caption_on(cluster, scorer, data, work, features, {"beams": beams, "max_tokens": max_tokens})
    report, test, lines = evaluate_captions(
        scorer, data, work, features=features, beams=beams, max_tokens=max_tokens, grounding=grounding, java=java
    )
    if captions is not None:
        text = (json.dumps(plain(line), ensure_ascii=False) + "\n" for line in lines)
        write_atomically(captions, "".join(text).encode())
    return {"beams": beams, "max_tokens": max_tokens, "captions": plain(report), "grounding": plain(test)}


def kept(*, features: Path | None = None, beams: int | None = None, max_tokens: int = 32, **_: Any) -> dict[str, Any]:
    """The settings that captions depend on."""
    store = None if features is None else FeatureStore(features).fingerprint
    return {"features": store, "beams": beams, "max_tokens": max_tokens}


@dataclass(frozen=True, slots=True)
class Captioned:
    """A line of a captions file: what the model said about a photo, and what people say."""

    key: str
    caption: str
    references: tuple[str, ...]


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


def evaluate_captions(
    model: PictureScorer,
    patterns: str | Sequence[str],
    work: Work,
    *,
    features: Path | None = None,
    beams: int | None = None,
    max_tokens: int = 32,
    grounding: int = 1000,
    java: bool = True,
) -> tuple[CaptionReport, GroundingReport | None, list[Captioned]]:
    """Caption the photos of shards, score the captions, and test on the first `grounding` photos whether it looks.

    features, and the limit of `work`: as in `read_pictures`. grounding: photos with references that the test takes, 0
    for none. java: METEOR and SPICE too. Captions are kept in the store of `work`, by the photos' digests. Raises
    DataError, DependencyError, and ImageError for a model that cannot take these pictures.
    """
    captioner = Captioner(model, work, {"beams": beams, "max_tokens": max_tokens}, grounding)
    captioner.caption(read_pictures(patterns, features=features, limit=work.limit, on_bad=work.on_bad))
    report = score_captions(captioner.lines, java=java)
    return report, captioner.ground() if grounding else None, captioner.lines


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


class Captioner:
    """Captions of photos as they come, and what the grounding test needs of the first ones."""

    def __init__(self, model: PictureScorer, work: Work, options: Mapping[str, Any], grounding: int) -> None:
        self._model, self._work, self._options, self._grounding = model, work, options, grounding
        self.lines: list[Captioned] = []
        self._pictures: list[Picture] = []  # of the grounding test, as the tower left them
        self._tested: list[int] = []  # their places in `lines`
        self._blank: Picture | None = None

    def caption(self, waiting: Iterator[tuple[CaptionedPhoto, Picture]]) -> None:
        """Caption them, as many at once as the model likes; photos in the store are not captioned again."""
        model, store, progress = self._model, self._work.store, self._work.progress("captions", self._work.limit)
        while batch := list(islice(waiting, model.pictures_at_once)):
            self._blank = blank_picture(batch[0][1]) if self._blank is None else self._blank
            names = [sample.digest for sample, _ in batch]  # what a photo is called may change between two runs
            known = {} if store is None else store.found
            wanted = [name not in known or len(self._pictures) < self._grounding for name in names]
            seen = model.look([picture for (_, picture), want in zip(batch, wanted, strict=True) if want])
            looked = dict(zip([name for name, want in zip(names, wanted, strict=True) if want], seen, strict=True))
            new = [name for name in looked if name not in known]
            texts = dict(zip(new, model.caption([looked[name] for name in new], **self._options), strict=True))
            for name, (sample, _) in zip(names, batch, strict=True):
                if name in texts and store is not None:
                    store.put(name, texts[name])
                if name in looked and any(map(_WORD.search, sample.captions)) and len(self._pictures) < self._grounding:
                    self._pictures.append(looked[name])
                    self._tested.append(len(self.lines))
                self.lines.append(Captioned(sample.key, texts[name] if name in texts else known[name], sample.captions))
            progress(len(self.lines))

    def take(self, waiting: Iterable[CaptionResult]) -> None:
        """Add captions made elsewhere, in the order of the photos, with a store; photos without one are named."""
        work, store, progress = self._work, self._work.store, self._work.progress("captions", self._work.limit)
        assert store is not None
        for count, result in enumerate(waiting, 1):
            if keep_caption(result, store, work.on_bad):
                self.lines.append(Captioned(result.key, store.found[result.digest], result.references))
            progress(count)

    def ground(self) -> GroundingReport:
        """The test; there is at least one photo."""
        assert self._blank is not None
        lines = [self.lines[i] for i in self._tested]
        (seen,) = self._model.look([self._blank])
        (said,) = self._model.caption([seen], **self._options)
        likelihood, captions, tokens = measure_likelihood(
            self._model, self._pictures, [line.references for line in lines], seen,
            on_progress=self._work.progress("grounding, texts"),
        )  # fmt: skip
        cider = compare_captions(
            tokenize([[line.caption] for line in lines]),
            tokenize([line.references for line in lines]),
            tokenize([[said]])[0],
        )
        return GroundingReport(likelihood, cider, said, len(lines), captions, tokens)


def tables(found: Results) -> Iterator[Table]:
    """Scores, a column for each model, and the grounding test of each."""
    columns = {each["title"]: found.get("captions", each["key"]) for each in found.contestants}
    reports = {title: measured["captions"] for title, measured in columns.items() if measured is not None}
    rows: list[Cells] = []

    def row(label: str, cell: Callable[[dict[str, Any]], Cell]) -> None:
        rows.append([label, *map(cell, reports.values())])

    row("CIDEr", lambda r: ranged(r["cider"], digits=3))
    for name, label in _NAMES.items():
        row(label, lambda r, name=name: number(r["scores"][name], 3))  # type: ignore[misc]
    for name in _JAVA:
        row(name.upper(), lambda r, name=name: _java(r, name))  # type: ignore[misc]
    row("CIDEr beside another photo's captions", lambda r: number((r["wrong_image"] or {}).get("cider"), 3))
    row("words a caption", lambda r: number(r["words"]))
    row("captions that no other photo has", lambda r: number(100 * r["distinct"], unit=" %"))
    row("photos", lambda r: number(r["photos"], 0))
    reasons = [
        f"{each['title']}: {found.missing('captions', each['key'])}"
        for each in found.contestants
        if columns[each["title"]] is None
    ]
    note = "CIDEr from 0 to 10, the others from 0 to 1. " + ". ".join(reasons)
    yield Table("Captions", ["measure", *reports], rows if reports else [], note.strip())
    for ending, measured in found.each("captions"):
        if measured["grounding"] is not None:
            yield _grounding(measured["grounding"], ending)


def _java(report: dict[str, Any], name: str) -> Cell:
    return number(report["java"][name], 3) if name in report["java"] else missing(report["absent"][name])


def _grounding(report: dict[str, Any], ending: str) -> Table:
    rows: list[Cells] = []
    for name, beside in report["likelihood"].items():
        spoken = report["cider"].get(name) or {"cider": None, "loss": None}
        wins = beside["right_wins"]
        rows.append(
            [
                _BESIDE[name],
                ranged(spoken["cider"], digits=3),
                ranged(spoken["loss"], digits=3),
                ranged(beside["perplexity"]),
                ranged(beside["loss"], digits=3),
                number(None if wins is None else 100 * wins, unit=" %"),
            ]
        )
    head = ["shown", "CIDEr", "CIDEr lost", "perplexity of people's captions", "nats a token lost", "right photo wins"]
    counts = f"{report['photos']:,} photos, {report['captions']:,} captions."
    return Table(f"Grounding{ending}", head, rows, f"{counts} Of a blank photo it says: {report['blank_caption']}")
