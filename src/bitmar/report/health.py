"""Sections that say whether the other figures can be believed, and how fast the model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitmar.evaluate.figure import plain
from bitmar.evaluate.passages import readable_photos
from bitmar.evaluate.tasks import speed as measure
from bitmar.evaluate.tasks.babylm.blimp import read_pairs
from bitmar.evaluate.tasks.probes import run_probes
from bitmar.report.data import Absent
from bitmar.report.job import Job

PHOTOS, PAIRS = 64, 2000
STEPS = 100  # timed at each context


def probe_files(job: Job) -> list[Path]:
    """Photos and pairs, as far as they are there."""
    return job.data.files(*_shards(job), *_blimp(job))


def probes(job: Job) -> dict[str, Any]:
    """The result of `run_probes`."""
    photos = readable_photos(shards, job.at_most(PHOTOS), job.on_bad) if (shards := _shards(job)) else []
    pairs = [pair for source in _blimp(job) for pair in read_pairs(source, job.on_bad)]
    found = run_probes(
        job.scorer,
        pictures=[photo for _, photo in photos],
        captions=[sample.captions for sample, _ in photos],
        pairs=pairs[:: max(1, len(pairs) // job.at_most(PAIRS))],
        on_probe=lambda name: job.on_step(f"probing {name}", None, None),
    )
    document: dict[str, Any] = plain(found)
    return document


def _shards(job: Job) -> list[str]:
    try:
        return job.data.shards if job.scorer.has_tower else []
    except Absent:  # the probe says that it was not run
        return []


def _blimp(job: Job) -> list[Path]:
    try:
        return [job.data.blimp]
    except Absent:
        return []


def nothing(job: Job) -> list[Path]:
    """No files are read."""
    return []


def speed(job: Job) -> dict[str, Any]:
    """The figures of `bitmar bench` on the engine that runs here, with a made-up photo."""
    model = job.packed
    steps = job.at_most(STEPS)
    job.on_step("decoding", None, None)
    found = measure.measure_path(model.container, model.engine, contexts=measure.CONTEXTS, tokens=steps)
    photo = measure.sample_photo() if model.engine.tower is not None else None
    if photo is not None:
        job.on_step("captions", None, None)
        found |= measure.measure_caption(model, photo)
    job.on_step("starts", None, None)
    found |= measure.measure_start(str(model.path), model.engine.name, photo)
    return {"engine": model.engine.name, **found}
