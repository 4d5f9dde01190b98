"""Does a caption name the thing? On labelled photos: whether it says the label's noun, or another word for it.

The nouns of labels are those of `bitmar.data.concepts`; "a puppy" names a dog, "a boy" is a person.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import DataError
from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts import Labels, build_vocabulary
from bitmar.evaluate.figure import F64, Figure, plain
from bitmar.evaluate.photos import read_pictures
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.tables import Cells, Picture, Results, Table, number, ranged
from bitmar.evaluate.task import Option
from bitmar.evaluate.work import Work

PEOPLE = ("person", "people", "man", "woman", "child", "boy", "girl", "baby", "player", "rider", "crowd")
_BINS = 10


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Annotated[
        list[str],
        Option(
            "WebDataset shards with labelled photos. Can be repeated. Default: those in $BITMAR_DATA.",
            "SHARDS",
            "shards",
        ),
    ],
) -> dict[str, Any]:
    """Caption labelled photos: does the caption name what the label says, and does its confidence know?

    The label is the key `label` of a sample's .json.
    """
    captions: list[str] = []
    labels: list[str] = []
    progress = work.progress("photos", work.limit)
    for sample, photo in read_pictures(data, limit=work.limit, on_bad=work.on_bad):
        captions += scorer.caption(scorer.look([photo]))
        labels.append(str(sample.meta.get("label") or ""))
        progress(len(captions))
    return dict(plain(evaluate_naming(captions, labels, [getattr(said, "confidence", None) for said in captions])))


def tables(found: Results) -> Iterator[Table | Picture]:
    """The share of named things by label, and risk against coverage."""
    yield from found.empty("naming", "Naming the thing")
    for ending, report in found.each("naming"):
        rows: list[Cells] = [
            [label, number(100 * named / photos, 0), number(photos, 0)]
            for label, (named, photos) in report["by_label"].items()
        ]
        rows.insert(0, ["mean over labels", ranged(report["named"], 100), number(report["photos"], 0)])
        note = "A caption names the thing if it says the label's noun or another word for it."
        if without := report["unknown"]:
            note += f" Left out: {sum(without.values())} photos whose labels have no noun: {', '.join(without)}."
        yield Table(f"Naming the thing{ending}", ["label", "named, %", "photos"], rows, note)
        if report["reliability"] is not None:
            yield _risk(report, ending)
        if "picture" in report:
            note = "Left: is a caption right as often as it says? Right: how often is it wrong, where it is sure?"
            yield Picture(f"Confidence of captions{ending}", report["picture"], note)


def _risk(report: dict[str, Any], ending: str) -> Table:
    rows: list[Cells] = [[f"the surest {at}", number(100 * (1 - right))] for at, right in report["by_coverage"].items()]
    note = (
        f"Calibration error {report['calibration_error']:.3f}: how far a caption's confidence is from how often it is "
        "right, over ten bins."
    )
    return Table(f"Risk against coverage{ending}", ["of the captions", "name another thing, %"], rows, note)


@dataclass(frozen=True, slots=True)
class NamingReport:
    """named: share of the photos whose caption names what the label says, the mean over labels.

    by_label: (named, photos) of each. Where captions carry a confidence: calibration_error, the expected one over ten
    equal bins (arXiv 1706.04599), and by_coverage, the accuracy on the most confident share of the photos.
    """

    named: Figure
    by_label: dict[str, tuple[int, int]]
    photos: int
    unknown: dict[str, int]
    calibration_error: float | None = None
    by_coverage: dict[str, float] | None = None
    reliability: list[dict[str, float]] | None = None


class Namer:
    """Whether captions name labels."""

    def __init__(self) -> None:
        self.vocabulary: Vocabulary = build_vocabulary([[" ".join(PEOPLE)]], least=1)
        self._labels = Labels(self.vocabulary)
        self._people = {concept for name in PEOPLE if (concept := self.vocabulary.index.get(name)) is not None}

    def knows(self, label: str) -> bool:
        """Whether a label has a noun."""
        return bool(self._labels(label))

    def __call__(self, caption: str, label: str) -> bool:
        """Whether a caption names anything that a label names."""
        said, meant = set(self.vocabulary.find(caption)), set(self._labels(label))
        if meant & self._people:
            meant |= self._people
        return bool(said & meant)


def evaluate_naming(
    captions: Sequence[str], labels: Sequence[str], confidences: Sequence[float | None] | None = None
) -> NamingReport:
    """captions, labels: of the same photos. Raises DataError where no label has a noun."""
    namer = Namer()
    unknown = Counter(label for label in labels if not namer.knows(label))
    known = [i for i, label in enumerate(labels) if label not in unknown]
    if not known:
        raise DataError(
            "no label of these photos has a noun that captions use: `label` in a sample's .json says what is to be seen"
        )
    right = np.array([namer(captions[i], labels[i]) for i in known])
    groups: dict[str, list[bool]] = defaultdict(list)
    for i, ok in zip(known, right.tolist(), strict=True):
        groups[labels[i]].append(ok)
    means = np.array([float(np.mean(group)) for group in groups.values()])
    trust: dict[str, Any] = {}
    if confidences is not None and all(confidences[i] is not None for i in known):
        chances = np.array([confidences[i] for i in known], np.float64)
        trust = {
            "calibration_error": calibration_error(chances, right),
            "by_coverage": {f"{share:.0%}": accuracy_at(chances, right, share) for share in np.arange(1, 11) / 10},
            "reliability": reliability(chances, right),
        }
    counts = {label: (sum(group), len(group)) for label, group in sorted(groups.items())}
    return NamingReport(Figure.bootstrap(means), counts, len(known), dict(unknown), **trust)


def reliability(chances: F64, right: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """By tenths of confidence: its mean, the share that was right, and how many photos."""
    bins = np.minimum((chances * _BINS).astype(int), _BINS - 1)
    return [
        {"confidence": float(chances[here].mean()), "right": float(right[here].mean()), "photos": int(here.sum())}
        for here in (bins == number for number in range(_BINS))
        if here.any()
    ]


def calibration_error(chances: F64, right: npt.NDArray[np.bool_]) -> float:
    """Mean distance of confidence and accuracy over the bins, by their photos."""
    bins = reliability(chances, right)
    return float(sum(abs(b["confidence"] - b["right"]) * b["photos"] for b in bins) / len(chances))


def accuracy_at(chances: F64, right: npt.NDArray[np.bool_], coverage: float) -> float:
    """Figure on the most confident share of the photos."""
    count = max(1, round(coverage * len(chances)))
    return float(right[np.argsort(-chances, kind="stable")[:count]].mean())


def about_the_right_thing(caption: str, references: Iterable[str], vocabulary: Vocabulary, subject: int | None) -> bool:
    """Whether the subject of a caption is named by a person's, or is a person where people are."""
    if subject is None:
        return False
    said = {concept for text in references for concept in vocabulary.find(text)}
    people = {concept for name in PEOPLE if (concept := vocabulary.index.get(name)) is not None}
    return subject in said or bool(subject in people and said & people)


def fit_confidence(evidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_], ridge: float = 1.0) -> Any:
    """Weights (7,) of `runtime.confidence.Witness.evidence` (n, 7), by logistic regression (Newton's method)."""
    x, y = evidence.astype(np.float64), right.astype(np.float64)
    weights = np.zeros(x.shape[1])
    penalty = ridge * np.eye(len(weights))
    penalty[-1, -1] = 0  # the constant
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
        weights -= np.linalg.solve(hessian, x.T @ (p - y) + penalty @ weights)
    return weights.astype(np.float32)
