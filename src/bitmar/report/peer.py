"""Other people's language models on the very same task files, through the harness' own `hf` model."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitmar.core.errors import BitMarError, DependencyError, pip_install
from bitmar.evaluate.figure import Figure
from bitmar.evaluate.tasks.zero_shot.run import DONE, FAILED, FOLDER, chance, find_tasks
from bitmar.report.job import OnStep
from bitmar.report.paper import TABLE_1

_METRICS = ("acc", "acc_norm")


class Unreachable(BitMarError):
    """Neither the Hub nor this disk has the model."""


def evaluate_peer(
    name: str, *, data: Path, limit: int | None = None, on_step: OnStep | None = None
) -> dict[str, dict[str, Any]]:
    """A causal language model of transformers on the tasks of Table 1.

    name: on the Hub, or a folder. Returns by task what `evaluate_tasks` gives, as far as the harness tells: acc,
    acc_norm, n, chance. Raises Unreachable if the model cannot be loaded, DependencyError.
    """
    try:
        import lm_eval
        import torch
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise DependencyError(f"peers need {error.name}: {pip_install('eval,train')}") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        lm = HFLM(pretrained=name, batch_size=8, device="cuda" if torch.cuda.is_available() else "cpu")
    except Exception as error:  # transformers, the Hub's client and a model's own code raise almost anything
        raise Unreachable(f"{name} cannot be had ({_first_line(error)})") from error
    manager = TaskManager(
        include_path=str(FOLDER), include_defaults=False, metadata={"data": str(data), "on_bad": None}
    )
    found: dict[str, dict[str, Any]] = {}
    names = find_tasks(list(TABLE_1))
    for done, task in enumerate(names):
        if on_step is not None:
            on_step(name, done, len(names))
        try:
            loaded = manager.load(task)
        except BitMarError as error:
            found[task] = {"status": FAILED, "message": str(error)}
            continue
        document = lm_eval.evaluate(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=0, log_samples=False)
        counted = document["n-samples"]
        n = sum(counted[part]["effective"] for part in counted)
        figures = {
            metric: _share(document["results"][task][f"{metric},none"], n)
            for metric in _METRICS
            if f"{metric},none" in document["results"][task]
        }
        found[task] = {"status": DONE, **figures, "n": n, "chance": asdict(chance(task, data))}
    return found


def _share(value: float, n: int) -> dict[str, Any]:
    """With Wilson's interval, from the count of right answers."""
    right = round(value * n)
    return Figure.share([1.0] * right + [0.0] * (n - right)).to_dict()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
