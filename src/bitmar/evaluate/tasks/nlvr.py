"""Yes/no questions on pictures: is the sentence true of it? NLVR (Suhr et al. 2017), in place of VQA's yes/no share.

Nothing is tuned on the items: one wording, fixed before anything was measured, and the likelier answer wins. Whoever
answers always the same gets the share of that answer, so `majority` and the balanced accuracy stand beside each figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bitmar.core.errors import DataError, ImageError
from bitmar.core.image import load_photo
from bitmar.data.archives import Archive, Record, open_archive, records, text_of
from bitmar.data.sources import OnBad
from bitmar.evaluate.figure import F64, Figure, plain
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.tables import Cells, Results, Table, number, ranged
from bitmar.evaluate.task import Option
from bitmar.evaluate.work import Work

WORDING = "Is it true that {}?"
YES, NO = " Yes.", " No."

_BATCH = 64  # pictures whose tokens exist at the same time


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Annotated[
        Path, Option("A .jsonl of questions with its pictures. Default: that in $BITMAR_DATA.", "ZIP|FOLDER", "path")
    ],
) -> dict[str, Any]:
    """Ask whether a sentence is true of a picture (NLVR): the likelier of "Yes." and "No.", and what the picture adds.

    With --json FILE a killed run resumes with the same command.
    """
    questions = islice(read_questions(data, work.on_bad), work.limit)
    return dict(plain(evaluate_nlvr(scorer, questions, work)))


def kept(*, data: Path) -> dict[str, Any]:
    """The settings that answers depend on."""
    return {"source": [data.name, data.stat().st_size, data.stat().st_mtime_ns], "wording": WORDING}


def tables(found: Results) -> Iterator[Table]:
    """A row for each way of answering."""
    title = "Yes/no questions on pictures (NLVR, in place of VQA's)"
    yield from found.empty("nlvr", title)
    for ending, report in found.each("nlvr"):
        ways = {"likelier": "raw", "what the picture makes likelier": "pmi", "likelier, without the picture": "blind"}
        rows: list[Cells] = [
            [
                name,
                ranged(report[way]["accuracy"], 100),
                number(100 * report["majority"]),
                ranged(report[way]["balanced"], 100),
                number(100 * report[way]["yes"]),
                number(100 * report[way]["tie_share"], 2, " %"),
            ]
            for name, way in ways.items()
        ]
        head = ["answer", "accuracy, %", "majority", "balanced, chance 50", "says yes, %", "ties"]
        yield Table(f"{title}{ending}", head, rows, f"{report['questions']:,} questions, worded: {report['wording']}")


@dataclass(frozen=True, slots=True)
class Question:
    """A sentence about a picture, and whether it is true. name: the list and the line it is from."""

    name: str
    image: Image.Image
    sentence: str
    truth: bool
    split: str

    @property
    def prompt(self) -> str:
        """The sentence as a question."""
        text = self.sentence.strip().rstrip(".")
        return WORDING.format(text[:1].lower() + text[1:])


@dataclass(frozen=True, slots=True)
class Answers:
    """One way of answering. accuracy: ties as halves, with Wilson's interval. balanced: the mean of the accuracies on
    true and on false sentences, 0.5 by chance whatever their shares. yes: share of "yes". tie_share: equal answers."""

    accuracy: Figure
    balanced: Figure
    yes: float
    tie_share: float


@dataclass(frozen=True, slots=True)
class NlvrReport:
    """raw: the likelier answer beside the picture. pmi: the answer that the picture makes likelier, against the same
    question without a picture (Holtzman et al. 2021). blind: the likelier answer without a picture.

    majority: share of the commoner truth. by_split: the accuracy of raw and pmi in each split.
    """

    raw: Answers
    pmi: Answers
    blind: Answers
    majority: float
    by_split: dict[str, dict[str, Figure]]
    questions: int
    wording: str


def read_questions(source: str | Path, on_bad: OnBad) -> Iterator[Question]:
    """Questions of a .zip or folder with a .jsonl of "image" (a path in it), "sentence", "label" and maybe "split".

    A line or a picture that cannot be used goes to `on_bad` and is skipped. Raises DataError for a source that cannot
    be read, an encrypted archive among them.
    """
    found = False
    with open_archive(Path(source)) as archive:
        for name, question in records(archive, partial(_decode, archive), on_bad):
            found = True
            yield replace(question, name=name)
    if not found:
        raise DataError(f"{source} holds no questions: give nlvr1.zip, or a folder with a .jsonl and its pictures")


def _decode(archive: Archive, line: Record, stem: str) -> Question:
    """The question of a line, its picture read. Raises KeyError, TypeError, ValueError."""
    image, sentence = text_of(line, "image"), text_of(line, "sentence")
    label = str(line["label"]).lower()  # published as a string, and as true and false
    if label not in ("true", "false"):
        raise TypeError("'label' is neither true nor false")
    split = text_of({"split": line.get("split", "all")}, "split")
    try:
        return Question("", load_photo(archive.read(image)), sentence, label == "true", split)
    except (DataError, ImageError) as error:
        raise ValueError(f"its picture {image} cannot be read ({error})") from error


def evaluate_nlvr(model: PictureScorer, questions: Iterator[Question], work: Work) -> NlvrReport:
    """Answer every question, at least one. The answers are kept in the store of `work` by the questions' names. Raises
    ImageError if the model takes no photos."""
    store, progress = work.store, work.progress("questions", work.limit)
    truths: list[bool] = []
    splits: list[str] = []
    margins: list[tuple[float, float]] = []  # beside the picture, and without it
    while batch := list(islice(questions, _BATCH)):
        known = {} if store is None else store.found
        new = [question for question in batch if question.name not in known]
        found = dict(zip((question.name for question in new), _answer(model, new), strict=True))
        for question in batch:
            if question.name in found and store is not None:
                store.put(question.name, found[question.name])
            seen, blind = found[question.name] if question.name in found else known[question.name]
            margins.append((seen, blind))
            truths.append(question.truth)
            splits.append(question.split)
        progress(len(truths))
    seen_all, blind_all = np.array(margins).T
    return report(seen_all, blind_all, np.array(truths), splits)


def _answer(model: PictureScorer, questions: Sequence[Question]) -> list[tuple[float, float]]:
    """Margins of "yes" over "no" beside the picture and without it."""
    texts = [question.prompt + answer for question in questions for answer in (YES, NO)]
    pictures = [picture for picture in model.look([question.image for question in questions]) for _ in (YES, NO)]
    seen, blind = model.loglikelihood(texts, pictures), model.loglikelihood(texts)
    return list(zip(_margins(seen), _margins(blind), strict=True))


def _margins(scores: Sequence[npt.NDArray[Any]]) -> list[float]:
    """How much likelier the first of two answers is, in nats; what both texts begin with counts the same in both."""
    totals = [float(score.sum(dtype="float64")) for score in scores]
    return [yes - no for yes, no in zip(totals[::2], totals[1::2], strict=True)]


def report(seen: F64, blind: F64, truths: npt.NDArray[np.bool_], splits: Sequence[str]) -> NlvrReport:
    """From the margins of "yes" over "no" beside the picture and without it, (n,) each, n >= 1."""
    where = {split: np.array([split == each for each in splits]) for split in sorted(set(splits))}
    raw, pmi = _points(seen, truths), _points(seen - blind, truths)
    share = float(truths.mean())
    return NlvrReport(
        raw=_answers(seen, truths),
        pmi=_answers(seen - blind, truths),
        blind=_answers(blind, truths),
        majority=max(share, 1 - share),
        by_split={
            split: {"raw": Figure.share(raw[some].tolist()), "pmi": Figure.share(pmi[some].tolist())}
            for split, some in where.items()
        },
        questions=len(truths),
        wording=WORDING + YES + NO,
    )


def _points(margins: F64, truths: npt.NDArray[np.bool_]) -> F64:
    """1 for a right answer, 0.5 for a tie, 0 for a wrong one."""
    points: F64 = np.where(margins == 0, 0.5, (margins > 0) == truths)
    return points


def _answers(margins: F64, truths: npt.NDArray[np.bool_]) -> Answers:
    points = _points(margins, truths)
    # Weighted so that both truths have one half: the mean is then the balanced accuracy, as far as both occur.
    weights = np.where(truths, 1 / max(truths.sum(), 1), 1 / max((~truths).sum(), 1))
    return Answers(
        accuracy=Figure.share(points.tolist()),
        balanced=Figure.bootstrap(points * weights, weights),
        yes=float((margins > 0).mean()),
        tie_share=float((margins == 0).mean()),
    )
