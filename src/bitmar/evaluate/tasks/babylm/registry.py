"""The tasks by name, and where the pipeline keeps their data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.task import pick
from bitmar.evaluate.tasks.babylm.blimp import blimp, supplement
from bitmar.evaluate.tasks.babylm.comps import comps
from bitmar.evaluate.tasks.babylm.devbench import devbench
from bitmar.evaluate.tasks.babylm.entity_tracking import entity_tracking
from bitmar.evaluate.tasks.babylm.ewok import ewok
from bitmar.evaluate.tasks.babylm.reading import reading
from bitmar.evaluate.tasks.babylm.scores import Score
from bitmar.evaluate.tasks.babylm.vqa import vqa
from bitmar.evaluate.tasks.babylm.winoground import winoground
from bitmar.evaluate.tasks.babylm.wug import adjectives, past_tense
from bitmar.evaluate.work import Work


@dataclass(frozen=True, slots=True)
class Task:
    """folders: the pipeline's names, the whole set first and then its quick subset. sees: whether it shows pictures."""

    name: str
    folders: tuple[str, ...]
    evaluate: Callable[[PictureScorer, Path, Work], dict[str, Score]]
    sees: bool = False


TASKS = {
    task.name: task
    for task in (
        Task("blimp", ("blimp_filtered", "blimp_fast"), blimp),
        Task("blimp_supplement", ("supplement_filtered", "supplement_fast"), supplement),
        Task("ewok", ("ewok_filtered", "ewok_fast"), ewok),
        Task("comps", ("comps",), comps),
        Task("entity_tracking", ("entity_tracking", "entity_tracking_fast"), entity_tracking),
        Task("wug_adj", ("wug_adj_nominalization",), adjectives),
        Task("wug_past", ("wug_past_tense",), past_tense),
        Task("reading", ("reading",), reading),
        Task("vqa", ("vqa_filtered",), vqa, sees=True),
        Task("winoground", ("winoground_filtered",), winoground, sees=True),
        Task("devbench", ("devbench",), devbench, sees=True),
    )
}


def find_tasks(names: Sequence[str] | None) -> list[Task]:
    """The tasks of these names, all for None. Raises ConfigError for an unknown one, naming the nearest."""
    return pick(names, TASKS, "task")
