"""Sections on the memory and the weights: the ablation, and the paper's Figures 2 and 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitmar.core.errors import FormatError
from bitmar.evaluate.ablation import Sources, ablate_memory
from bitmar.plots.canvas import save
from bitmar.plots.memory import SAID, draw_memory
from bitmar.plots.quantization import LOGGED, draw_quantization
from bitmar.plots.slots import held, passages, read, usage_along
from bitmar.plots.snapshots import course, snapshots, untrained
from bitmar.plots.zeros import NOTED, zeros_of_model, zeros_of_run
from bitmar.report.data import LONG_TEXTS, READ_TEXTS, Absent
from bitmar.report.job import Job
from bitmar.train.runs import LOG, is_run

PHOTOS = 200  # of the ablation
SEEDS = 3


def ablation_files(job: Job) -> list[Path]:
    """Photos, long texts and pairs, as far as they are there."""
    _has_memory(job)
    sources = _sources(job)
    return job.data.files(*sources.photos, *sources.texts, *([sources.pairs] if sources.pairs else []))


def ablation(job: Job) -> dict[str, Any]:
    """The result of `ablate_memory`."""
    found = ablate_memory(
        job.packed,
        _sources(job),
        **size(job),
        on_step=lambda name, done: job.on_step(name, done, None),
        on_bad=job.on_bad,
    )
    header, rows = found.table()
    return {**found.to_dict(), "table": {"head": header, "rows": rows}}


def size(job: Job) -> dict[str, int]:
    """How much of everything the ablation takes."""
    return {"seeds": SEEDS if job.limit is None else 1, "limit": max(4, job.at_most(PHOTOS))}


def _sources(job: Job) -> Sources:
    photos: list[str] = []
    pairs: Path | None = None
    try:
        photos = job.data.shards if job.scorer.has_tower else []
    except Absent:  # the ablation names what it leaves out
        photos = []
    try:
        pairs = job.data.blimp
    except Absent:
        pairs = None
    texts = job.data.texts(LONG_TEXTS)
    if not (photos or pairs or texts):
        raise Absent(f"{job.data.folder} has neither photos with captions, nor long texts, nor BLiMP")
    return Sources(photos=photos, texts=texts, pairs=pairs)


def _has_memory(job: Job) -> None:
    if job.packed.config.memory_integration == "off":
        raise Absent("this model was built without a memory")


def slots_files(job: Job) -> list[Path]:
    """The passages to read, and the logs of the run if there is one."""
    _has_memory(job)
    return [*job.data.files(*_read_captions(job), *job.data.texts(READ_TEXTS)), *_run_files(job)]


def slots(job: Job) -> dict[str, Any]:
    """Figure 2: which slots held-out texts read, early and late in a run if there is one; how the slots are used."""
    model, models = job.packed, {job.packed.path.name: job.packed}
    if job.run is not None:
        kept = snapshots(job.run)
        first = untrained(kept[0])
        early = {} if first is None else {"before training": first}
        models = {**early, **{str(one): one.open() for one in dict.fromkeys((kept[0], kept[-1]))}}
        model = list(models.values())[-1]
    sighted = all(each.engine.tower is not None for each in models.values())
    found = passages(_read_captions(job), job.data.texts(READ_TEXTS), photos=sighted, on_bad=job.on_bad)
    job.on_step("passages", 0, (len(models) + (job.run is None)) * len(found))

    def tick() -> None:
        job.on_step("passages", None, None)

    readings = [read(name, each, found, None, tick) for name, each in models.items()]
    use: Any = course(job.run, tuple(SAID)) if job.run is not None else None
    if not use:
        use = usage_along(model, found, None, tick)
    drawn = draw_memory(f"Episodic memory of {_name(job)}", readings, found, held(readings[-1], found, None), use)
    save(drawn, job.figures / "memory.png")
    half = {reading.name: reading.needed for reading in readings}
    return {"picture": "memory.png", "models": list(models), "passages": len(found), "slots_of_half_the_reads": half}


def zeros_files(job: Job) -> list[Path]:
    """The log of the run, if there is one."""
    return _run_files(job)


def zeros(job: Job) -> dict[str, Any]:
    """Figure 3: the share of zero weights."""
    matrices = zeros_of_run(job.run) if job.run is not None else []
    matrices = matrices or zeros_of_model(job.packed.container)
    along = course(job.run, (LOGGED,)) if job.run is not None else None
    save(draw_quantization(f"Quantisation of {_name(job)}", matrices, along), job.figures / "quantization.png")
    weights = sum(matrix.weights for matrix in matrices)
    return {
        "picture": "quantization.png",
        "matrices": len(matrices),
        "mean": sum(matrix.zeros for matrix in matrices) / len(matrices),
        "of_all_weights": sum(matrix.zeros * matrix.weights for matrix in matrices) / weights,
    }


def _read_captions(job: Job) -> list[str]:
    try:
        return job.data.shards
    except Absent:
        return []


def _run_files(job: Job) -> list[Path]:
    if job.run is None:
        return []
    if not is_run(job.run):
        raise FormatError(f"{job.run} is no training run: name the folder that `bitmar train` writes its stages to")
    return sorted({*job.run.glob(f"*/{LOG}"), *job.run.glob(f"*/{NOTED}")})


def _name(job: Job) -> str:
    return job.run.name if job.run is not None else job.packed.path.name
