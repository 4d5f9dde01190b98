"""Entity tracking (arXiv 2305.02363): what is in the box after things were moved? The likeliest option answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bitmar.data.archives import Record, text_of, texts_of
from bitmar.evaluate.tasks.babylm.choices import Choice, choice_task


def decode(line: Record, stem: str) -> Choice:
    """The options given the story, the first is right; grouped by file and number of operations."""
    options = texts_of(line, "options")
    prefix = text_of(line, "input_prefix")
    return Choice.completed([prefix] * len(options), options, f"{stem}_{int(line['numops'])}_ops")


def split_weights(uids: Sequence[str]) -> dict[str, float]:
    """First the mean over the numbers of operations, then the mean over regular, ambiref and move_contents."""
    splits: dict[str, list[str]] = defaultdict(list)
    for uid in uids:
        splits[uid.rsplit("_", 2)[0]].append(uid)
    return {uid: 1 / (len(splits) * len(some)) for some in splits.values() for uid in some}


entity_tracking = choice_task("entity_tracking", decode, split_weights)
"""The mean over splits of the mean over numbers of operations of the accuracy."""
