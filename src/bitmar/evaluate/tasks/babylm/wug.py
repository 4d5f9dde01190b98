"""Nonce words: does the model inflect as people do? Adjectives to nouns (arXiv 2411.07990, -ity or -ness) and past
tenses (Weissweiler et al. 2023, arXiv 2310.15113)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitmar.data.archives import Record, read_records, text_of
from bitmar.evaluate.figure import F64, Figure
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.tasks.babylm.choices import Choice, score_choices
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work


@dataclass(frozen=True, slots=True)
class Wug:
    """choice: the sentences; ratio: the share of people who took the first."""

    choice: Choice
    ratio: float


def decode(line: Record, stem: str) -> Wug:
    """Sentences with a tab between them, and the ratio."""
    sentences = text_of(line, "sentences").split("\t")
    if len(sentences) < 2 or not all(sentences):
        raise ValueError("'sentences' does not hold two, with a tab between them")
    return Wug(Choice.whole(sentences, stem), float(line["ratio"]))


def model_ratio(scores: F64) -> float:
    """The share of the first of the log-probabilities: softmax."""
    weights = np.exp(scores - scores.max())
    return float(weights[0] / weights.sum())


def correlate(scorer: Scorer, source: Path, work: Work) -> Score:
    """Spearman's correlation of the model's ratio with the human one, over all items."""
    items = work.some(read_records(source, decode, work.on_bad))
    scores = score_choices(scorer, [item.choice for item in items], work)
    model, human = np.array([model_ratio(some) for some in scores]), np.array([item.ratio for item in items])
    ties = sum(bool((some == some[0]).all()) for some in scores)
    return Score("spearman", Figure.rank_correlation(model, human, ties=ties))


def adjectives(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """Adjective nominalisation."""
    return {"wug_adj": correlate(scorer, source, work)}


def past_tense(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """Past tense."""
    return {"wug_past": correlate(scorer, source, work)}
