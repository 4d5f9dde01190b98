"""Sections on text: lm-evaluation-harness' zero-shot tasks, BabyLM's, and finished fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bitmar.core.errors import BitMarError, DataError
from bitmar.evaluate.ablation_variants import OFF, variants
from bitmar.evaluate.scorer import RuntimeScorer
from bitmar.evaluate.tasks.babylm.files import find_source
from bitmar.evaluate.tasks.babylm.registry import TASKS
from bitmar.evaluate.tasks.babylm.run import DONE, run_babylm
from bitmar.evaluate.tasks.babylm.work import Work
from bitmar.evaluate.tasks.zero_shot.run import evaluate_tasks
from bitmar.report.data import Absent
from bitmar.report.job import PEER, Job
from bitmar.report.paper import TABLE_4
from bitmar.report.peer import evaluate_peer
from bitmar.train.finetune_report import REPORT, read_report

_UNPAIRED = tuple(name for name in TABLE_4 if name != "blimp")  # BLiMP is compared pair by pair in the ablation


def task_files(job: Job) -> list[Path]:
    """The harness' archives."""
    return job.data.files(job.data.tasks / "*.zip")


def tasks(job: Job) -> dict[str, Any]:
    """By task what `evaluate_tasks` gives."""
    if job.contestant.role == PEER:
        assert job.contestant.source is not None
        return evaluate_peer(job.contestant.source, data=job.data.tasks, limit=job.limit, on_step=job.on_step)
    with job.log() as log:
        return evaluate_tasks(
            job.scorer, data=job.data.tasks, limit=job.limit, on_progress=job.on_step, on_bad=job.on_bad, log=log
        )


def babylm_files(job: Job) -> list[Path]:
    """All files of the tasks that are there."""
    return _sources(job, *TASKS)


def babylm(job: Job) -> dict[str, Any]:
    """By task what `run_babylm` gives."""
    return _babylm(job, job.scorer, None)


def without_memory_files(job: Job) -> list[Path]:
    """Those of Table 4's tasks. Absent if there are none."""
    files = _sources(job, *_UNPAIRED)
    if not files:
        raise Absent(f"{job.data.babylm} has none of {', '.join(_UNPAIRED)}")
    return files


def without_memory(job: Job) -> dict[str, Any]:
    """BabyLM's tasks of Table 4 with the memory off, the weights the same."""
    if job.packed.config.memory_integration == "off":
        raise Absent("this model was built without a memory")
    return _babylm(job, RuntimeScorer(variants(job.packed)[OFF]), _UNPAIRED)


def _sources(job: Job, *names: str) -> list[Path]:
    found = (find_source(job.data.babylm, TASKS[name].folders) for name in names)
    return job.data.files(*(source for source in found if source))


def _babylm(job: Job, scorer: Any, names: tuple[str, ...] | None) -> dict[str, Any]:
    def on_task(name: str, work: Work) -> Work:
        return replace(work, on_bad=job.on_bad, on_progress=lambda done, total: job.on_step(name, done, total))

    store = job.half_done(".json")
    document = run_babylm(scorer, job.data.babylm, names, limit=job.limit, store=store, on_task=on_task)
    if not any(task["status"] == DONE for task in document["tasks"].values()):
        raise DataError("; ".join(task["message"] for task in document["tasks"].values()))
    return dict(document["tasks"])


def finetuned_files(job: Job) -> list[Path]:
    """The reports of fine-tuning in the folder that was named, one for a task. Absent if none was."""
    if job.finetuned is None:
        raise Absent("no --finetuned DIR: `bitmar finetune TASK --out DIR/TASK` makes one for each task")
    found = sorted({*job.finetuned.glob(REPORT), *job.finetuned.glob(f"*/{REPORT}")})
    if not found:
        raise Absent(f"{job.finetuned} holds no finished fine-tuning (TASK/{REPORT})")
    return found


def finetuned(job: Job) -> dict[str, Any]:
    """By task the report of its fine-tuning; a damaged one is left out and named."""
    found = {}
    for path in finetuned_files(job):
        try:
            report = read_report(path.parent)
        except BitMarError as error:
            job.on_bad(str(path), str(error))
        else:
            found[report.task] = report.to_dict()
    return found
