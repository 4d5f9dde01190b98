"""Questions about photos, made by rule from their captions (`data.picture_questions`): is the right answer likeliest?

A stand-in for VQA wherever photos have captions. A kind's answers are the same for all its questions: the colours, the
numbers, yes and no, and the commonest actions of the set. Nobody has checked the questions, so that even a perfect
model would miss some. What counts is the distance from the same model without the photo, and from the commonest answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from bitmar.core.errors import DataError
from bitmar.data.picture_questions import COLOURS, NUMBERS, picture_questions
from bitmar.data.text import clean_caption
from bitmar.evaluate.figure import plain
from bitmar.evaluate.photos import look_at_all
from bitmar.evaluate.protocol import OnProgress, Picture, PictureScorer
from bitmar.evaluate.tables import Results, Table
from bitmar.evaluate.task import Features, Option, Shards
from bitmar.evaluate.tasks import vqa as people
from bitmar.evaluate.work import Work

ACTIONS = 12
"""Answers to "what is ... doing": the commonest ones of the set; rarer ones are left out."""

_AT_ONCE = 32  # photos


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Shards,
    features: Features = None,
    vqa: Annotated[
        Path | None, Option("A file of people's questions, asked as by `bitmar ask`.", "FILE.jsonl", "path")
    ] = None,
) -> dict[str, Any]:
    """Ask about photos what their captions answer: colour, number, action, presence, truth; with the photo and without.

    The questions are made by rule from people's captions, a stand-in for VQA on any captioned photos. With --vqa they
    are people's: a line {"shard", "key", "question", "answer", "answer_type"} each, and --limit counts them.
    """
    if vqa is not None:
        return people.run(scorer, work, data, vqa)
    pictures, captions = look_at_all(scorer, data, work, features)
    progress = work.progress("questions", len(pictures))
    return dict(plain(evaluate_photo_questions(scorer, pictures, captions, on_progress=progress)))


def tables(found: Results) -> Iterator[Table]:
    """A row for each kind of question."""
    title = "Questions about photos, made by rule from people's captions"
    yield from found.empty("questions", title)
    for ending, report in found.each("questions"):
        if "questions_from" in report:
            more = {"answered, %": "certain", "accuracy when answered": "certain_accuracy"}
            yield people.table("People's questions about photos", report, more)
        else:
            note = "Nobody has checked the questions; the next photo gives what is not there."
            yield people.table(f"{title}{ending}", report, {"chance": "chance"}, note)


@dataclass(frozen=True, slots=True)
class PhotoQuestion:
    """A question, its answer, and the number of the photo it is about."""

    kind: str
    question: str
    answer: str
    photo: int


@dataclass(frozen=True, slots=True)
class KindReport(people.Compared):
    """Ties are shared out. chance: one of the answers."""

    chance: float


@dataclass(frozen=True, slots=True)
class PhotoQuestionReport:
    """By kind; photos: that were asked about; answers: by kind those to choose from."""

    kinds: dict[str, KindReport]
    photos: int
    answers: dict[str, tuple[str, ...]]


def make_questions(captions: Sequence[Sequence[str]]) -> list[PhotoQuestion]:
    """At most one question of each kind about each photo, from the captions of at least two; the next photo's captions
    give what is not to be seen. The same captions give the same questions."""
    tidy = [list(filter(None, map(clean_caption, group))) for group in captions]
    found: list[PhotoQuestion] = []
    for place, own in enumerate(tidy):
        if not own:
            continue
        for kind, texts in picture_questions(own, tidy[(place + 1) % len(tidy)]).items():
            digest = hashlib.blake2b(f"{place} {kind} {own[0]}".encode(), digest_size=8).digest()
            question, _, answer = texts[int.from_bytes(digest, "little") % len(texts)].rpartition("? ")
            found.append(PhotoQuestion(kind, f"{question}?", answer, place))
    return found


def answers_of(asked: Iterable[PhotoQuestion]) -> dict[str, tuple[str, ...]]:
    """By kind the answers to choose from."""
    actions = Counter(each.answer for each in asked if each.kind == "action").most_common(ACTIONS)
    truth = ("yes", "no")
    return {
        "color": COLOURS,
        "count": tuple(map(str, NUMBERS.values())),
        "action": tuple(action for action, _ in sorted(actions)),
        "presence": truth,
        "truth": truth,
    }


def evaluate_photo_questions(
    model: PictureScorer,
    pictures: Sequence[Picture],
    captions: Sequence[Sequence[str]],
    *,
    on_progress: OnProgress | None = None,
) -> PhotoQuestionReport:
    """Ask about every photo. pictures: as `PictureScorer.look` returned them. `on_progress(n)`: photos that are done.

    Raises DataError for fewer than two photos, or captions that nothing can be asked about.
    """
    if len(pictures) < 2:
        raise DataError("questions about photos need at least two photos with captions")
    asked = make_questions(captions)
    answers = answers_of(asked)
    asked = [each for each in asked if each.answer in answers[each.kind]]
    if not asked:
        raise DataError("the captions name no colour, number, action or thing that could be asked about")
    seen: list[float] = []
    blind: list[float] = []
    for start in range(0, len(pictures), _AT_ONCE):
        some = [each for each in asked if start <= each.photo < start + _AT_ONCE]
        texts = [f"{each.question} {answer}" for each in some for answer in answers[each.kind]]
        shown = [pictures[each.photo] for each in some for _ in answers[each.kind]]
        asked_of = [(each.question, answer) for each in some for answer in answers[each.kind]]
        spoken = [model.evidence(*of, picture) for of, picture in zip(asked_of, shown, strict=True)]
        scores = model.loglikelihood(texts, shown)
        seen += _points(some, answers, [s.sum(dtype="float64") + e for s, e in zip(scores, spoken, strict=True)])
        blind += _points(some, answers, [s.sum(dtype="float64") for s in model.loglikelihood(texts)])
        if on_progress is not None:
            on_progress(min(start + _AT_ONCE, len(pictures)))
    kinds = {}
    for kind, choices in answers.items():
        here = np.array([each.kind == kind for each in asked])
        if here.any():
            right = [each.answer for each in asked if each.kind == kind]
            points = np.array(seen)[here], np.array(blind)[here]
            kinds[kind] = KindReport.of(*points, right, chance=1 / len(choices))
    return PhotoQuestionReport(kinds, len({each.photo for each in asked}), answers)


def _points(
    asked: Sequence[PhotoQuestion], answers: dict[str, tuple[str, ...]], scores: Sequence[float]
) -> list[float]:
    """1 where the right answer is the likeliest, 1/m where it is one of m that are, else 0."""
    totals = iter(scores)
    points = []
    for each in asked:
        found = {answer: next(totals) for answer in answers[each.kind]}
        best = [answer for answer, total in found.items() if total == max(found.values())]
        points.append((each.answer in best) / len(best))
    return points
