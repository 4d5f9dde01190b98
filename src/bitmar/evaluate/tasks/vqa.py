"""Questions that people asked about photos (VQA v2, arXiv 1612.00837), answered by `BitMar.ask` with and without them.

An answer is right if it is the one that most people gave. A model that ignores the photo answers as well without it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bitmar.core.errors import ConfigError, DataError, ImageError
from bitmar.data.archives import Record, read_records, text_of
from bitmar.data.sources import iter_webdataset
from bitmar.evaluate.figure import F64, Figure, plain
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.scorer import RuntimeScorer
from bitmar.evaluate.tables import Cells, Table, number, ranged
from bitmar.evaluate.work import Work
from bitmar.runtime.ask import ask

if TYPE_CHECKING:
    from bitmar.api import BitMar
    from bitmar.data.sources import CaptionedPhoto

ALL = "all"
_KEYS = ("shard", "key", "question", "answer", "answer_type")

OnBad = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class VqaQuestion:
    """photo: shard's stem / sample's key. answer: that of most people. kind: yes/no, number or other."""

    photo: str
    question: str
    answer: str
    kind: str


K = TypeVar("K", bound="Compared")


@dataclass(frozen=True, slots=True)
class Compared:
    """seen, blind: accuracy beside the photo and without it. gain: seen less blind, question by question. commonest:
    the share of the answer that is most often right."""

    seen: Figure
    blind: Figure
    gain: Figure
    commonest: float
    questions: int

    @classmethod
    def of(cls: type[K], seen: F64, blind: F64, answers: Sequence[str], **more: Any) -> K:
        """From the points (n,) of each question and its right answer."""
        commonest = Counter(answers).most_common(1)[0][1] / len(answers)
        right, without, gain = (Figure.bootstrap(points) for points in (seen, blind, seen - blind))
        return cls(right, without, gain, commonest, len(answers), **more)


@dataclass(frozen=True, slots=True)
class VqaKind(Compared):
    """certain: share of the questions that the photo decided; certain_accuracy: accuracy on these, None without any."""

    certain: float
    certain_accuracy: float | None


@dataclass(frozen=True, slots=True)
class VqaReport:
    """By kind, and `ALL` of them together. photos: that were asked about."""

    kinds: dict[str, VqaKind]
    photos: int


def decode(line: Record, stem: str) -> VqaQuestion:
    """Of a line {"shard", "key", "question", "answer", "answer_type"}."""
    shard, key, question, answer, kind = (text_of(line, name) for name in _KEYS)
    return VqaQuestion(f"{Path(shard).stem}/{key}", question, answer, kind)


def run(scorer: PictureScorer, work: Work, data: Sequence[str], questions: Path) -> dict[str, Any]:
    """Answer the questions of a file as `bitmar ask` does. ConfigError for a model that is not packed."""
    if not isinstance(scorer, RuntimeScorer):
        raise ConfigError(
            f"{scorer.name} is not packed: `bitmar ask`, which asks people's questions, takes a .bitmar file"
        )
    asked = read_records(questions, decode, work.on_bad)[: work.limit]
    found = evaluate_vqa(
        scorer.model,
        asked,
        iter_webdataset(data),  # photos that nobody asks about may be broken
        on_bad=work.on_bad,
        on_progress=work.progress("questions", len(asked)),
    )
    return {"task": "vqa", "questions_from": str(questions), **plain(found)}


def table(title: str, report: dict[str, Any], more: Mapping[str, str], note: str = "") -> Table:
    """A row for each kind of question. more: columns of their own, and the names of their shares."""
    rows: list[Cells] = [
        [
            kind,
            *(ranged(each[name], 100) for name in ("seen", "blind", "gain")),
            *(number(None if each[name] is None else 100 * each[name]) for name in (*more.values(), "commonest")),
            number(each["questions"], 0),
        ]
        for kind, each in report["kinds"].items()
    ]
    head = ["about", "right, %", "without the photo", "what the photo adds", *more, "commonest", "questions"]
    return Table(title, head, rows, f"{report['photos']:,} photos. {note}".strip())


def evaluate_vqa(
    model: BitMar,
    questions: Iterable[VqaQuestion],
    photos: Iterable[CaptionedPhoto],
    *,
    on_bad: OnBad,
    on_progress: Callable[[int], None] = lambda count: None,
) -> VqaReport:
    """Ask about every photo. on_progress(questions that are done). Raises DataError if no photo was found."""
    waiting: dict[str, list[VqaQuestion]] = defaultdict(list)
    for question in questions:
        waiting[question.photo].append(question)
    parts = model.engine, model.tokenizer, model.witness, model.config.bos_token_id, model.config.eos_token_id
    answered: list[tuple[VqaQuestion, bool, bool, bool]] = []
    asked = 0
    for photo in photos:
        if photo.key not in waiting:
            continue
        some = waiting.pop(photo.key)
        try:
            image = model.encode_image(photo.image)
        except ImageError as error:
            on_bad(photo.key, str(error))
            continue
        asked += 1
        for each in some:
            seen, blind = (ask(*parts, each.question, shown) for shown in (image, None))
            right = [_plain(answer.guess) == _plain(each.answer) for answer in (seen, blind)]
            answered.append((each, right[0], right[1], seen.certain))
        on_progress(len(answered))
    for name in waiting:
        on_bad(name, "no shard has this photo")
    if not answered:
        raise DataError("none of the photos that are asked about lies in the shards of --data")
    kinds = {name: [row for row in answered if row[0].kind == name] for name in sorted({q.kind for q, *_ in answered})}
    return VqaReport({name: _report(rows) for name, rows in {**kinds, ALL: answered}.items()}, asked)


def _plain(answer: str) -> str:
    """Without case, articles and full stop, as VQA's own scoring."""
    return " ".join(word for word in answer.lower().rstrip(". ").split() if word not in ("a", "an", "the"))


def _report(rows: list[tuple[VqaQuestion, bool, bool, bool]]) -> VqaKind:
    seen, blind, certain = (np.array([row[place] for row in rows], np.float64) for place in (1, 2, 3))
    answers = [_plain(row[0].answer) for row in rows]
    right = float(seen[certain > 0].mean()) if certain.any() else None
    return VqaKind.of(seen, blind, answers, certain=float(certain.mean()), certain_accuracy=right)
