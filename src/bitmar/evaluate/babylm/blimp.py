"""BLiMP (arXiv 1912.00582) and BabyLM's supplement to it: of two sentences, is the grammatical one the likelier?"""

from __future__ import annotations

from pathlib import Path

from bitmar.evaluate.babylm.choices import Choice, judge, score_choices
from bitmar.evaluate.babylm.scores import Score
from bitmar.evaluate.babylm.work import Work
from bitmar.evaluate.blimp import read_pairs
from bitmar.evaluate.scorer import Scorer


def read_blimp(source: Path, work: Work) -> list[Choice]:
    """A choice for every pair; its group is the phenomenon, which the supplement's files are named after."""
    pairs = read_pairs(source, work.on_bad)
    return [Choice.whole((pair.good, pair.bad), pair.file, kinds={"field": pair.field}) for pair in pairs]


def blimp(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """The mean over phenomena of the accuracy in each."""
    choices = work.some(read_blimp(source, work))
    return {"blimp": judge(choices, score_choices(scorer, choices, work))}


def supplement(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """The same on the supplement's five files."""
    return {"blimp_supplement": blimp(scorer, source, work)["blimp"]}
