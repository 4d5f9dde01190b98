"""All tasks that a folder has data for, one after the other, into a document that outlives a kill."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitmar import __version__
from bitmar.core.errors import BitMarError, ConfigError, DataError
from bitmar.core.files import write_atomically
from bitmar.core.locks import sole_writer
from bitmar.evaluate.archives import data_hash
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.tasks.babylm.files import find_source
from bitmar.evaluate.tasks.babylm.registry import Task, find_tasks
from bitmar.evaluate.tasks.babylm.work import Work

DONE, ABSENT, BLIND, FAILED = "done", "absent", "blind", "failed"

OnTask = Callable[[str, Work], Work]
"""Called with a task's name and its `Work` before it begins; what it returns is used: the place for a progress bar."""

_KEY = ("bitmar", "model_checksum", "scorer", "limit")  # what a stored result depends on, beside its data
_MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def run_babylm(
    scorer: PictureScorer,
    data: str | Path,
    tasks: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    store: str | Path | None = None,
    on_task: OnTask | None = None,
) -> dict[str, Any]:
    """Score a model on the tasks of the BabyLM 2025 pipeline.

    Args:
        data: the pipeline's `evaluation_data`, its `full_eval` or `fast_eval`, or a folder with any of the tasks'
            folders (or .zip of one). tasks: names, None for all. limit: N items of each, evenly spread.
        store: a .json that is written after every task; what it holds of the same model, data and limit is not
            computed again.
    Returns:
        model, model_checksum, scorer, data, limit, and tasks: by name a status and what belongs to it. "done": scores
        (see `Score`), folder, data_hash, seconds, skipped (lines and pictures, by name). "absent": no data. "blind":
        a model without a vision tower. "failed": data that cannot be read. The last three with a message.
    Raises:
        ConfigError for an unknown task, a limit below 1, or a `store` that holds something else; DataError if there is
        no such folder; OutputError if another process writes `store`.
    """
    chosen, data = find_tasks(tasks), Path(data)
    if limit is not None and limit < 1:
        raise ConfigError(f"a limit is a number of items, at least 1, not {limit}")
    if not data.exists():
        raise DataError(f"{data} does not exist: give the folder with BabyLM's evaluation data")
    document: dict[str, Any] = {
        "bitmar": __version__,
        "model": scorer.name,
        "model_checksum": model_checksum(scorer.name),
        "scorer": type(scorer).__name__,
        "data": str(data),
        "limit": limit,
    }
    with nullcontext() if store is None else sole_writer(store):
        known = _stored(Path(store), document) if store is not None else {}
        document["tasks"] = dict(known)
        for task in chosen:
            document["tasks"][task.name] = _run(task, scorer, data, limit, known.get(task.name, {}), on_task)
            if store is not None:
                _write(Path(store), document)
    return document


def _run(
    task: Task, scorer: PictureScorer, data: Path, limit: int | None, known: dict[str, Any], on_task: OnTask | None
) -> dict[str, Any]:
    source = find_source(data, task.folders)
    if source is None:
        return {"status": ABSENT, "message": f"{data} has no {task.folders[0]}"}
    if task.sees and not scorer.has_tower:
        message = f"{scorer.name} has no vision tower and cannot see: take a model with one"
        return {"status": BLIND, "message": message}
    hashed = data_hash(source)
    if known.get("status") == DONE and known.get("data_hash") == hashed:
        return known
    skipped: dict[str, str] = {}
    work = Work(limit)
    if on_task is not None:
        work = on_task(task.name, work)
    tell = work.on_bad

    def on_bad(name: str, reason: str) -> None:
        skipped[name] = reason
        tell(name, reason)

    begun = time.perf_counter()
    try:
        scores = task.evaluate(scorer, source, replace(work, on_bad=on_bad))
    except BitMarError as error:
        return {"status": FAILED, "message": str(error), "skipped": skipped}
    return {
        "status": DONE,
        "folder": source.name,
        "data_hash": hashed,
        "seconds": round(time.perf_counter() - begun, 2),
        "skipped": skipped,
        "scores": {name: score.to_dict() for name, score in scores.items()},
    }


def model_checksum(name: str) -> str | None:
    """SHA-256 of the model's files, by the name that its scorer goes by; None for one that lies in no file."""
    path = Path(name)
    files = [path] if path.is_file() else [path / file for file in _MODEL_FILES if (path / file).is_file()]
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _stored(path: Path, document: dict[str, Any]) -> dict[str, Any]:
    """The tasks of an earlier run of the same model, {} if there is none."""
    if not path.exists():
        return {}
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        tasks: dict[str, Any] = earlier["tasks"]
        key = [earlier[name] for name in _KEY]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no result of this command: name another file, or delete it") from error
    same = key == [document[name] for name in _KEY] and document["model_checksum"] is not None
    return tasks if same else {}


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
