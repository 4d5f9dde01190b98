"""Reading times (de Varda et al. 2023, doi 10.3758/s13428-023-02261-8): does surprisal explain how long people read?

A least-squares model of the reading time from frequency, length and position (with their interactions) is compared
with one that has the word's surprisal as well: (R2_with - R2_without) / (1 - R2_without). That is the square of the
partial correlation of surprisal and reading time, which is how it is computed here. Eye tracking is the mean of four
measures; self-paced reading holds the preceding word's length and surprisal against spill-over too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import DataError
from bitmar.data.archives import read_files, read_rows
from bitmar.evaluate.figure import F64, Figure
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.tasks.babylm.choices import tokenizer_of
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work
from bitmar.runtime.text import encode

EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED = "self_paced_reading_time"
BASELINE = ("Subtlex_log10", "length", "context_length")
SPILLOVER = (*BASELINE, "prev_length", "prev_pred")
_MEASURED = (*BASELINE, "prev_length", *EYE_TRACKING, SELF_PACED)
_MISSING = frozenset(("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>"))  # as pandas reads a .csv
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Word:
    """A word that was read: its context, the word before it with that one's context, and the measurements."""

    context: str
    word: str
    before: tuple[str, str] | None
    measured: dict[str, float]


def read_words(source: Path, work: Work) -> list[Word]:
    """The rows of the .csv. A row without a word, or with what is no number, is reported and skipped.

    Nothing to read, or columns that are missing: DataError.
    """
    words = []
    for name, contents in read_files(source, ".csv"):
        rows = read_rows(name, contents)
        _, columns = next(rows, (0, []))
        missing = {"item", "word", "prev_item", "prev_word", *_MEASURED} - set(columns)
        if missing:
            raise DataError(f"{name} lacks the columns {', '.join(sorted(missing))}: download it again")
        for begin, row in rows:
            try:
                words.append(_word(columns, row))
            except ValueError as error:
                work.on_bad(f"{name}:{begin}", str(error))
    if not words:
        raise DataError(f"{source} holds no row that can be read: download it again")
    return words


def _word(columns: Sequence[str], row: Sequence[str]) -> Word:
    if len(row) != len(columns):
        raise ValueError("too few or too many fields")
    cells = dict(zip(columns, row, strict=True))
    if not cells["word"]:
        raise ValueError("has no word")
    measured = {name: math.nan if cells[name] in _MISSING else float(cells[name]) for name in _MEASURED}
    if any(map(math.isinf, measured.values())):
        raise ValueError("holds an infinite number")
    before = None if cells["prev_item"] in _MISSING else (cells["prev_item"], cells["prev_word"])
    return Word(cells["item"] or "None", cells["word"], before, measured)  # "None" for nothing: the pipeline's word


def surprisals(scorer: Scorer, words: Sequence[tuple[str, str]], work: Work) -> F64:
    """-log P(word | context), (n,), of pairs (context, word).

    The pipeline's way: the word is tokenised alone, without a blank before it, and each of its tokens follows the
    text so far, tokenised anew.
    """
    tokenizer = tokenizer_of(scorer)
    rows: list[list[int]] = []
    owners: list[int] = []
    for owner, (context, word) in enumerate(words):
        for i, token in enumerate(encode(tokenizer, word)):
            piece = tokenizer.decode([token])
            rows.append([*encode(tokenizer, context), token if i == 0 else encode(tokenizer, piece)[0]])
            owners.append(owner)
            context += piece
    scores = scorer.loglikelihood(rows, on_progress=work.progress(work.name, len(rows)))
    found = np.zeros(len(words))
    np.subtract.at(found, owners, [float(row[-1]) for row in scores])
    return found


def partial_r2(targets: F64, predictor: F64, covariates: F64) -> F64:
    """The share of what covariates (n, k) leave unexplained of targets (n, m) that predictor (n,) explains: (m,)."""
    values = np.column_stack((predictor, targets))
    rest = values - covariates @ np.linalg.lstsq(covariates, values, rcond=None)[0]
    x, y = rest[:, 0], rest[:, 1:]
    spread = (x @ x) * (y * y).sum(axis=0)
    # What is left of something that the covariates already hold is rounding.
    known = 1e-18 * (values[:, 0] @ values[:, 0]) * (values[:, 1:] ** 2).sum(axis=0)
    shares: F64 = np.divide((x @ y) ** 2, spread, out=np.zeros(y.shape[1]), where=spread > known)
    return shares


def design(columns: Sequence[F64]) -> F64:
    """Intercept, main effects and products of two: (n, 1 + k + k(k-1)/2).

    Columns are centred and scaled first, which spans the same space and keeps the fit well-conditioned.
    """
    scaled = [(column - column.mean()) / (column.std() or 1.0) for column in columns]
    products = [a * b for a, b in combinations(scaled, 2)]
    return np.column_stack([np.ones(len(scaled[0])), *scaled, *products])


def explained(table: dict[str, F64], targets: Sequence[str], baseline: Sequence[str]) -> Score:
    """The mean over targets of `partial_r2` of table["pred"], over the rows that have every value.

    The interval is the bootstrap's over rows. A predictor that knows nothing gets 1 / (n - k) on average, not 0.
    """
    keep = ~np.isnan(np.array([table[name] for name in ("pred", *targets, *baseline)])).any(axis=0)
    predictor, covariates = table["pred"][keep], design([table[name][keep] for name in baseline])
    measured = np.column_stack([table[name][keep] for name in targets])
    n, columns = covariates.shape
    if n <= columns + 1:  # nothing is left to explain
        return Score("partial_r2", Figure.undefined(n))

    def mean(rows: npt.NDArray[np.int64]) -> float:
        return float(partial_r2(measured[rows], predictor[rows], covariates[rows]).mean())

    draws = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
    low, high = np.percentile([mean(rows) for rows in draws], (2.5, 97.5))
    return Score("partial_r2", Figure(mean(np.arange(n)), float(low), float(high), n, 0, 1 / (n - columns)))


def reading(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """Eye tracking and self-paced reading."""
    words = work.some(read_words(source, work))
    asked = [(word.context, word.word) for word in words]
    with_one_before = [i for i, word in enumerate(words) if word.before is not None]
    asked += [before for word in words if (before := word.before) is not None]
    found = surprisals(scorer, asked, work)
    table = {name: np.array([word.measured[name] for word in words]) for name in _MEASURED}
    table["pred"] = found[: len(words)]
    table["prev_pred"] = np.full(len(words), np.nan)
    table["prev_pred"][with_one_before] = found[len(words) :]
    return {
        "reading_eye_tracking": explained(table, EYE_TRACKING, BASELINE),
        "reading_self_paced": explained(table, [SELF_PACED], SPILLOVER),
    }
