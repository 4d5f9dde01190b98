"""Sections on photos: captions, retrieval, questions, and a page of photos to look at."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from bitmar.evaluate.figure import plain
from bitmar.evaluate.passages import readable_photos
from bitmar.evaluate.protocol import Picture
from bitmar.evaluate.tasks.captions import evaluate_captions, look_at_all
from bitmar.evaluate.tasks.nlvr import evaluate_nlvr, read_questions
from bitmar.evaluate.tasks.photo_questions import evaluate_photo_questions
from bitmar.evaluate.tasks.retrieval import Gallery, evaluate_retrieval, pairs_to_score
from bitmar.plots.grid import Cell, write_grid
from bitmar.report.job import Job

GRID = 12
_REFERENCES = 2  # people's captions under each photo


def shard_files(job: Job) -> list[Path]:
    """The shards with captions."""
    job.sees()
    return job.data.files(*job.data.shards)


def nlvr_files(job: Job) -> list[Path]:
    """The questions."""
    job.sees()
    return job.data.files(job.data.nlvr)


def captions(job: Job) -> dict[str, Any]:
    """The result of `evaluate_captions`."""
    with job.log() as log:
        found = evaluate_captions(
            job.scorer,
            job.data.shards,
            limit=job.limit,
            log=log,
            on_bad=job.on_bad,
            on_caption=lambda count: job.on_step("captions", count, job.limit),
            on_grounding=lambda count: job.on_step("grounding, texts", count, None),
        )
    document: dict[str, Any] = plain(found)
    return document


def retrieval(job: Job) -> dict[str, Any]:
    """The result of `evaluate_retrieval`."""
    pictures, texts = _look(job)
    gallery, sizes = Gallery(pictures, texts), {"pool": 100, "rerank": 20, "queries": 200}
    total = pairs_to_score(gallery, *sizes.values())
    found = evaluate_retrieval(
        job.scorer, gallery, **sizes, on_progress=lambda count: job.on_step("pairs", count, total)
    )
    document: dict[str, Any] = plain(found)
    return document


def questions(job: Job) -> dict[str, Any]:
    """The result of `evaluate_photo_questions`."""
    pictures, texts = _look(job)
    found = evaluate_photo_questions(
        job.scorer, pictures, texts, on_progress=lambda count: job.on_step("questions", count, len(pictures))
    )
    document: dict[str, Any] = plain(found)
    return document


def _look(job: Job) -> tuple[list[Picture], list[tuple[str, ...]]]:
    return look_at_all(
        job.scorer,
        job.data.shards,
        limit=job.limit,
        on_bad=job.on_bad,
        on_progress=lambda count: job.on_step("photos", count, job.limit),
    )


def nlvr(job: Job) -> dict[str, Any]:
    """The result of `evaluate_nlvr`."""
    questions = islice(read_questions(job.data.nlvr, job.on_bad), job.limit)
    with job.log() as log:
        found = evaluate_nlvr(
            job.scorer, questions, log=log, on_progress=lambda count: job.on_step("questions", count, job.limit)
        )
    document: dict[str, Any] = plain(found)
    return document


def grid(job: Job) -> dict[str, Any]:
    """The first photos with the model's captions, and people's in grey: nobody has chosen them."""
    found = readable_photos(job.data.shards, job.at_most(GRID), job.on_bad)
    cells = []
    for sample, photo in found:
        (said,) = job.scorer.caption([photo])
        cells.append(Cell(photo, said, sample.captions[:_REFERENCES]))
        job.on_step("photos", len(cells), len(found))
    write_grid(job.figures / "captions.jpg", cells)
    return {"picture": "captions.jpg", "photos": len(cells), "captions": [cell.caption for cell in cells]}
