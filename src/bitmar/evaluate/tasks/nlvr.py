"""Yes/no questions on pictures: is the sentence true of it? NLVR (Suhr et al. 2017), in place of VQA's yes/no share.

Nothing is tuned on the items: one wording, fixed before anything was measured, and the likelier answer wins. Whoever
answers always the same gets the share of that answer, so `majority` and the balanced accuracy stand beside each figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bitmar.core.errors import DataError, ImageError
from bitmar.core.image import load_photo
from bitmar.core.strict_json import parse_json
from bitmar.data.sources import OnBad
from bitmar.evaluate.archives import open_archive
from bitmar.evaluate.figure import F64, Figure
from bitmar.evaluate.protocol import OnProgress, PictureScorer
from bitmar.evaluate.store import ResultLog

WORDING = "Is it true that {}?"
YES, NO = " Yes.", " No."

_BATCH = 64  # pictures whose tokens exist at the same time


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


def read_questions(source: str | Path, on_bad: OnBad | None = None) -> Iterator[Question]:
    """Questions of a .zip or folder with a .jsonl of "image" (a path in it), "sentence", "label" and maybe "split".

    A line or a picture that cannot be used goes to `on_bad` and is skipped. Raises DataError for a source that cannot
    be read, an encrypted archive among them.
    """
    report = on_bad or (lambda name, reason: None)
    found = False
    with open_archive(Path(source)) as archive:
        for name in archive.names:
            if not name.endswith(".jsonl"):
                continue
            for number, line in enumerate(archive.read(name).splitlines(), 1):
                label = f"{name}:{number}"
                try:
                    image, sentence, truth, split = _decode(parse_json(line))
                except (ValueError, KeyError, TypeError):
                    report(label, 'not a line with "image", "sentence" and "label" (true or false)')
                    continue
                try:
                    picture = load_photo(archive.read(image))
                except (DataError, ImageError) as error:
                    report(label, f"its picture {image} cannot be read ({error})")
                    continue
                found = True
                yield Question(label, picture, sentence, truth, split)
    if not found:
        raise DataError(f"{source} holds no questions: give nlvr1.zip, or a folder with a .jsonl and its pictures")


def _decode(values: dict[str, Any]) -> tuple[str, str, bool, str]:
    """Image, sentence, truth and split of a line. Raises KeyError, TypeError."""
    image, sentence, split = values["image"], values["sentence"], values.get("split", "all")
    label = str(values["label"]).lower()  # published as a string, and as true and false
    if not all(isinstance(text, str) and text.strip() for text in (image, sentence, split)):
        raise TypeError
    if label not in ("true", "false"):
        raise TypeError
    return image, sentence, label == "true", split


def evaluate_nlvr(
    model: PictureScorer,
    questions: Iterator[Question],
    *,
    log: ResultLog | None = None,
    on_progress: OnProgress | None = None,
) -> NlvrReport:
    """Answer every question, at least one. `on_progress(n)`: those that are done. Raises ImageError if the model takes
    no photos.

    log: keeps the answers by the questions' names, so that a killed run goes on; its task names model and source.
    """
    truths: list[bool] = []
    splits: list[str] = []
    margins: list[tuple[float, float]] = []  # beside the picture, and without it
    while batch := list(islice(questions, _BATCH)):
        known = {} if log is None else log.found
        new = [question for question in batch if question.name not in known]
        found = dict(zip((question.name for question in new), _answer(model, new), strict=True))
        for question in batch:
            if question.name in found and log is not None:
                log.put(question.name, found[question.name])
            seen, blind = found[question.name] if question.name in found else known[question.name]
            margins.append((seen, blind))
            truths.append(question.truth)
            splits.append(question.split)
        if on_progress is not None:
            on_progress(len(truths))
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
