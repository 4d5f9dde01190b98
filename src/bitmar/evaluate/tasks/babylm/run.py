"""All tasks that a folder has data for, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from bitmar.core.errors import ConfigError, DataError
from bitmar.evaluate.folder import EvalData, find_source
from bitmar.evaluate.parts import Prepared, measure_part
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.task import Option
from bitmar.evaluate.tasks.babylm.registry import TASKS, Task, find_tasks
from bitmar.evaluate.work import Work

ABSENT, BLIND = "absent", "blind"


def run(
    scorer: PictureScorer,
    work: Work,
    *,
    data: Annotated[
        Path,
        Option("BabyLM's evaluation_data, or a folder with parts of it. Default: that in $BITMAR_DATA.", "DIR", "path"),
    ],
    tasks: Annotated[
        list[str] | None, Option("Run only these. Can be repeated. Default: all with data.", "TASK[,TASK]")
    ] = None,
) -> dict[str, dict[str, Any]]:
    """Score a model on BabyLM's tasks: BLiMP and its supplement, EWoK, COMPS, entity tracking, nonce words, reading
    times, VQA, Winoground and DevBench.

    Scores are the pipeline's, but a tie counts half. Data that is not there is named as absent. With --json FILE a
    killed run resumes after the last finished task, and what FILE has of the same model and data is not measured again.
    """
    return run_babylm(scorer, data, tasks, work)


def files(source: EvalData) -> dict[str, Any]:
    """The folder with the tasks."""
    return {"data": source.babylm(name for task in TASKS.values() for name in task.folders)}


def run_babylm(
    scorer: PictureScorer, data: str | Path, tasks: Sequence[str] | None = None, work: Work | None = None
) -> dict[str, dict[str, Any]]:
    """Score a model on the tasks of the BabyLM 2025 pipeline.

    Args:
        data: the pipeline's `evaluation_data`, its `full_eval` or `fast_eval`, or a folder with any of the tasks'
            folders (or .zip of one). tasks: names, None for all. work: its limit is N items of each, evenly spread; its
            store keeps tasks.
    Returns:
        By task a status and what belongs to it. "done": scores (see `Score`), folder, and more (see `measure_part`).
        "absent": no data. "blind": a model without a vision tower. "failed": data that cannot be read. The last three
        with a message.
    Raises:
        ConfigError for an unknown task or a limit below 1; DataError if there is no such folder.
    """
    chosen, data, work = find_tasks(tasks), Path(data), work or Work()
    if work.limit is not None and work.limit < 1:
        raise ConfigError(f"a limit is a number of items, at least 1, not {work.limit}")
    if not data.exists():
        raise DataError(f"{data} does not exist: give the folder with BabyLM's evaluation data")
    return {task.name: _run(task, scorer, data, work) for task in chosen}


def _run(task: Task, scorer: PictureScorer, data: Path, work: Work) -> dict[str, Any]:
    source = find_source(data, task.folders)
    if source is None:
        return {"status": ABSENT, "message": f"{data} has no {task.folders[0]}"}
    if task.sees and not scorer.has_tower:
        message = f"{scorer.name} has no vision tower and cannot see: take a model with one"
        return {"status": BLIND, "message": message}
    return measure_part(task.name, replace(work, name=task.name), partial(_prepared, task, scorer, source))


def _prepared(task: Task, scorer: PictureScorer, source: Path, work: Work) -> Prepared:
    def measure() -> dict[str, Any]:
        scores = task.evaluate(scorer, source, work)
        return {"folder": source.name, "scores": {name: score.to_dict() for name, score in scores.items()}}

    return source, measure
