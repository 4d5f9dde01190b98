"""EWoK (arXiv 2405.09605): which of two targets goes with a context?

As in the pipeline, the context is the first of the item's two, and only the target's tokens are scored.
"""

from __future__ import annotations

from bitmar.data.archives import Record, text_of
from bitmar.evaluate.tasks.babylm.choices import Choice, choice_task

_KINDS = {"context_type": "ContextType", "context_contrast": "ContextDiff", "target_contrast": "TargetDiff"}


def decode(line: Record, stem: str) -> Choice:
    """Context1 and Target1, against Context1 and Target2; grouped by domain."""
    context = text_of(line, "Context1")
    targets = [f" {text_of(line, key)}" for key in ("Target1", "Target2")]
    kinds = {kind: str(line[key]) for kind, key in _KINDS.items()}
    return Choice.completed([context, context], targets, text_of(line, "Domain"), kinds=kinds)


ewok = choice_task("ewok", decode)
"""The mean over domains of the accuracy in each."""
