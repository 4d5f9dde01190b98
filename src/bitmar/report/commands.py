"""The command that gives a section's figures alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from bitmar.core.errors import BitMarError
from bitmar.evaluate.tasks.zero_shot.run import FOLDER
from bitmar.report import health, memory, pictures
from bitmar.report.data import LONG_TEXTS, READ_TEXTS
from bitmar.report.job import PEER, Job
from bitmar.report.paper import TABLE_1
from bitmar.report.sections import Section


def command(section: Section, job: Job) -> str:
    """As one line for a shell. What is not there is named by a word in capitals."""
    source = job.contestant.source
    if job.contestant.role == PEER:
        return (
            f"lm_eval --model hf --model_args pretrained={shlex.quote(str(source))} "
            f"--include_path {_short(FOLDER)} --tasks {','.join(TABLE_1)}"
        )
    values = {
        "model": "" if source is None else f"--model {shlex.quote(source)}",
        "source": shlex.quote(str(job.run or source or "default")),
        "limit": "" if job.limit is None else f"--limit {job.limit}",
        "probe_size": f"--photos {job.at_most(health.PHOTOS)} --pairs {job.at_most(health.PAIRS)}",
        "grid_size": f"--limit {job.at_most(pictures.GRID)}",
        "bench_size": f"--tokens {job.at_most(health.STEPS)}",
        "ablation_size": " ".join(f"--{name} {count}" for name, count in memory.size(job).items()),
        "long_texts": _texts(job, LONG_TEXTS),
        "read_texts": _texts(job, READ_TEXTS),
        "folder": f"--data {shlex.quote(str(job.data.folder))}",
        "finetuned": shlex.quote(str(job.finetuned or "DIR")),
        "shards": _or(lambda: " ".join(f"--data {shlex.quote(each)}" for each in job.data.shards), "--data SHARDS"),
        "blimp": _or(lambda: shlex.quote(str(job.data.blimp)), "BLIMP"),
        "nlvr": _or(lambda: shlex.quote(str(job.data.nlvr)), "NLVR"),
        "tasks": _or(lambda: shlex.quote(str(job.data.tasks)), "ARCHIVES"),
        "babylm": _or(lambda: shlex.quote(str(job.data.babylm)), "EVALUATION_DATA"),
    }
    return " ".join(section.command.format_map(values).split())


def _texts(job: Job, names: Sequence[str]) -> str:
    return " ".join(f"--text {shlex.quote(path)}" for path in job.data.texts(names))


def _or(value: Callable[[], str], placeholder: str) -> str:
    try:
        return value()
    except BitMarError:
        return placeholder


def _short(path: Path) -> str:
    """As seen from the repository's root, where the package lies in one."""
    parts = path.parts
    return "/".join(parts[parts.index("src") :]) if "src" in parts else str(path)
