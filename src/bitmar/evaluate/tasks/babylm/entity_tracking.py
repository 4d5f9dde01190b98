"""Entity tracking (arXiv 2305.02363): what is in the box after things were moved? The likeliest option answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bitmar.data.archives import Record, read_records, text_of, texts_of
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.tasks.babylm.choices import Choice, judge, score_choices
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.work import Work


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


def entity_tracking(scorer: Scorer, source: Path, work: Work) -> dict[str, Score]:
    """The mean over splits of the mean over numbers of operations of the accuracy."""
    choices = work.some(read_records(source, decode, work.on_bad))
    return {"entity_tracking": judge(choices, score_choices(scorer, choices, work), split_weights)}
