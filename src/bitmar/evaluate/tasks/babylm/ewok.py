"""EWoK (arXiv 2405.09605): which of two targets goes with a context?

As in the pipeline, the context is the first of the item's two, and only the target's tokens are scored.
"""

from __future__ import annotations

from pathlib import Path

from bitmar.data.archives import Record, read_records, text_of
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.tasks.babylm.choices import Choice, judge, score_choices
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work

_KINDS = {"context_type": "ContextType", "context_contrast": "ContextDiff", "target_contrast": "TargetDiff"}


def decode(line: Record, stem: str) -> Choice:
    """Context1 and Target1, against Context1 and Target2; grouped by domain."""
    context = text_of(line, "Context1")
    targets = [f" {text_of(line, key)}" for key in ("Target1", "Target2")]
    kinds = {kind: str(line[key]) for kind, key in _KINDS.items()}
    return Choice.completed([context, context], targets, text_of(line, "Domain"), kinds=kinds)


def ewok(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """The mean over domains of the accuracy in each."""
    choices = work.some(read_records(source, decode, work.on_bad))
    return {"ewok": judge(choices, score_choices(scorer, choices, work))}
