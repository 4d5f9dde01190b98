"""The harness' zero-shot tasks in `tasks/`, run in this process: accuracies with intervals, ties, and chance."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitmar.core.errors import BitMarError, ConfigError, DependencyError, nearest, pip_install
from bitmar.data.sources import OnBad
from bitmar.evaluate.archives import data_hash
from bitmar.evaluate.figure import Figure
from bitmar.evaluate.protocol import TextScorer
from bitmar.evaluate.store import ResultLog
from bitmar.evaluate.tasks.zero_shot.data import find_archive

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

FOLDER = Path(__file__).parent / "yaml"
ZERO_SHOT = "bitmar_zero_shot"  # the group of all tasks

DONE, FAILED = "done", "failed"
_ACCURACIES = ("acc", "acc_norm")

OnTask = Callable[[str, int, int], None]
"""Called with a task's name, the contexts that are done, and all of them."""


@dataclass(frozen=True, slots=True)
class Chance:
    """The accuracy of answers given without looking at the question.

    uniform: drawing among the choices. majority: always the place that is most often right, known beforehand. 0 both
    for a task without choices. questions: that were counted.
    """

    uniform: float
    majority: float
    questions: int

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Chance:
        """From the questions themselves, at least one."""
        listed = list(rows)
        chosen = [row for row in listed if "choices" in row]
        if not chosen:
            return cls(0.0, 0.0, len(listed))
        most = Counter(row["gold"] for row in chosen).most_common(1)[0][1]
        return cls(sum(1 / len(row["choices"]) for row in chosen) / len(chosen), most / len(chosen), len(chosen))


def task_names() -> list[str]:
    """The tasks, each of which has one result; MMLU is one."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != ZERO_SHOT)


def find_tasks(tasks: Sequence[str] | None) -> list[str]:
    """Full names of tasks, all of them for none; `bitmar_` may be left out. Raises ConfigError for an unknown one."""
    known = task_names()
    names: list[str] = []
    for name in tasks or [ZERO_SHOT]:
        if name == ZERO_SHOT:
            names += known
        elif name in known or f"bitmar_{name}" in known:
            names.append(name if name in known else f"bitmar_{name}")
        else:
            raise ConfigError(f"unknown task {name!r}{nearest(name, known)}: choose from {', '.join(known)}")
    return list(dict.fromkeys(names))


def chance(task: str, data: str | Path | None = None) -> Chance:
    """The chance level of a task, over all of its data. Raises ConfigError for an unknown task, DataError."""
    (name,) = find_tasks([task])
    with _quiet():
        loaded = _manager(data, None).load(name)["tasks"].values()
        return Chance.of(row for task in loaded for row in task.eval_docs)


def evaluate_tasks(
    scorer: TextScorer,
    tasks: Sequence[str] | None = None,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    on_progress: OnTask | None = None,
    on_bad: OnBad | None = None,
    log: ResultLog | None = None,
) -> dict[str, dict[str, Any]]:
    """Score a model on zero-shot tasks through lm-evaluation-harness: its prompts, its requests, its metrics.

    Args:
        tasks: names, None for all. data: the folder of the archives, as in `task_data`. limit: the first N questions of
            each, the first; of MMLU, of each subject. on_bad: told of lines that are left out. log: results that are
            in it are not computed again, new ones are put there.
    Returns:
        By task a status. "done": acc, and acc_norm where the task has it (right by log-probability per character),
        each {"value", "low", "high"} with the 95 % interval (Wilson); perplexity of LAMBADA's words; n, the questions;
        ties, those whose best answers are equally likely, of which the harness takes the first; chance (see `Chance`);
        parts, the accuracies of MMLU's subjects; archive, data_hash, skipped, seconds. "failed": message.
    Raises:
        ConfigError for an unknown task or a limit below 1, DependencyError without lm-eval.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"a limit is a number of questions, at least 1, not {limit}")
    results: dict[str, dict[str, Any]] = {}
    for name in find_tasks(tasks):
        skipped: dict[str, str] = {}

        def bad(place: str, reason: str, skipped: dict[str, str] = skipped) -> None:
            if place not in skipped and on_bad is not None:
                on_bad(place, reason)
            skipped[place] = reason

        def progress(done: int, total: int, name: str = name) -> None:
            if on_progress is not None:
                on_progress(name, done, total)

        begun = time.perf_counter()
        try:
            with _quiet():
                found = _evaluate(scorer, name, _manager(data, bad), limit, progress, log)
        except DependencyError:
            raise
        except BitMarError as error:
            results[name] = {"status": FAILED, "message": str(error), "skipped": skipped}
            continue
        if "seconds" not in found:
            found |= {"skipped": skipped, "seconds": round(time.perf_counter() - begun, 2)}
            if log is not None:
                log.put(name, found)
        results[name] = found
    return results


def _manager(data: str | Path | None, on_bad: OnBad | None) -> TaskManager:
    from lm_eval.tasks import TaskManager

    metadata: dict[str, Any] = {"data": None if data is None else str(data), "on_bad": on_bad}
    return TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)


def _evaluate(
    scorer: TextScorer,
    name: str,
    manager: TaskManager,
    limit: int | None,
    on_progress: Callable[[int, int], None],
    log: ResultLog | None,
) -> dict[str, Any]:
    import lm_eval

    from bitmar.evaluate.harness import BitMarLM

    loaded = manager.load(name)
    task = next(iter(loaded["tasks"].values()))
    archive = find_archive(task.config.dataset_kwargs["archive"], task.config.metadata["data"])
    hashed = data_hash(archive)
    known = log.found.get(name) if log is not None else None
    if known is not None and known["data_hash"] == hashed:
        return dict(known)
    # `simple_evaluate` would add the machine's description, which takes it most of a minute, and set global seeds.
    lm = BitMarLM(scorer=scorer, on_progress=on_progress)
    document = lm_eval.evaluate(lm=lm, task_dict=loaded, limit=limit, bootstrap_iters=0)
    samples: dict[str, list[dict[str, Any]]] = document["samples"]
    every = [sample for some in samples.values() for sample in some]
    found: dict[str, Any] = {"status": DONE, **_accuracies(every), "n": len(every), "ties": sum(map(_is_tie, every))}
    if "perplexity" in every[0]:
        found["perplexity"] = math.exp(-sum(sample["perplexity"] for sample in every) / len(every))
    found["chance"] = asdict(Chance.of(sample["doc"] for sample in every))
    if len(samples) > 1:
        found["parts"] = {part.split("::")[-1]: {**_accuracies(some), "n": len(some)} for part, some in samples.items()}
    return {**found, "archive": archive.name, "data_hash": hashed}


def _accuracies(samples: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for metric in _ACCURACIES:
        if metric in samples[0]:
            found[metric] = Figure.share([sample[metric] for sample in samples]).to_dict()
    return found


def _is_tie(sample: dict[str, Any]) -> bool:
    scores = [score for score, _ in sample["filtered_resps"]]
    return len(scores) > 1 and scores.count(max(scores)) > 1


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness' notices, and its bars, which would run into ours. Its errors stay."""
    try:
        import lm_eval.api.task as harness
    except ModuleNotFoundError as error:
        raise DependencyError(f"these tasks need {error.name}: {pip_install('eval')}") from error
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, harness.tqdm
    logger.setLevel(logging.ERROR)
    harness.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        harness.tqdm = bar
