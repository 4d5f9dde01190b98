"""The harness' zero-shot tasks in `tasks/`, run in this process: accuracies with intervals, ties, and chance."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bitmar.core.errors import ConfigError, DependencyError, nearest, pip_install
from bitmar.data.sources import OnBad
from bitmar.evaluate.figure import Figure, plain
from bitmar.evaluate.paper import TABLE_1
from bitmar.evaluate.parts import Prepared, measure_part
from bitmar.evaluate.peer import Peer
from bitmar.evaluate.protocol import TextScorer
from bitmar.evaluate.task import Option
from bitmar.evaluate.tasks.zero_shot.data import find_archive
from bitmar.evaluate.work import Work

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

FOLDER = Path(__file__).parent / "yaml"
ZERO_SHOT = "bitmar_zero_shot"  # the group of all tasks

_ACCURACIES = ("acc", "acc_norm")


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


def run(
    scorer: TextScorer | Peer,
    work: Work,
    *,
    tasks: Annotated[list[str] | None, Option("Run only these. Can be repeated. Default: all.", "TASK[,TASK]")] = None,
    data: Annotated[
        Path | None,
        Option("The folder of the archives. Default: $BITMAR_EVAL_DATA, else eval/lm_eval below $BITMAR_DATA.", "DIR"),
    ] = None,
) -> dict[str, dict[str, Any]]:
    """Score a model on ARC, BoolQ, CommonsenseQA, COPA, LAMBADA, MMLU, OpenBookQA, PIQA, WinoGrande, and a sample of
    HellaSwag, without examples.

    By length: right by log-probability per character. Commonest: always the place that is most often right.
    With --json FILE a killed run resumes after the last finished task.
    """
    return evaluate_tasks(scorer, tasks, work, data=data)


def evaluate_tasks(
    scorer: TextScorer | Peer, tasks: Sequence[str] | None, work: Work, *, data: str | Path | None = None
) -> dict[str, dict[str, Any]]:
    """Score a model on zero-shot tasks through lm-evaluation-harness: its prompts, its requests, its metrics.

    Args:
        tasks: names, None for all; of a peer those of Table 1. data: the folder of the archives, as in `data`. work:
        its
            limit is the first N questions of each task, and of each subject of MMLU; its store keeps tasks.
    Returns:
        By task what `measure_part` gives: acc, and acc_norm where the task has it (right by log-probability per
        character), figures; perplexity of LAMBADA's words; n, the questions; ties, those whose best answers are equally
        likely, of which the harness takes the first; chance (see `Chance`); parts, the accuracies of MMLU's subjects.
    Raises:
        ConfigError for an unknown task or a limit below 1, DependencyError without lm-eval, Unreachable.
    """
    names = find_tasks(list(TABLE_1) if isinstance(scorer, Peer) else tasks)
    if work.limit is not None and work.limit < 1:
        raise ConfigError(f"a limit is a number of questions, at least 1, not {work.limit}")
    with _quiet():
        if isinstance(scorer, Peer):
            assert scorer.lm is not None  # a peer that is out of reach has no result, not even a failed one
        return {name: measure_part(name, work, partial(_prepared, scorer, name, data)) for name in names}


def _prepared(scorer: TextScorer | Peer, name: str, data: str | Path | None, work: Work) -> Prepared:
    loaded = _manager(data, work.on_bad).load(name)
    task = next(iter(loaded["tasks"].values()))
    archive = find_archive(task.config.dataset_kwargs["archive"], task.config.metadata["data"])
    return archive, lambda: {**_measured(scorer, name, loaded, work), "archive": archive.name}


def _measured(scorer: TextScorer | Peer, name: str, loaded: dict[str, Any], work: Work) -> dict[str, Any]:
    import lm_eval

    from bitmar.evaluate.harness import BitMarLM

    def progress(done: int, total: int) -> None:
        work.on_step(name, done, total)

    # `simple_evaluate` would add the machine's description, which takes it most of a minute, and set global seeds.
    lm = scorer.lm if isinstance(scorer, Peer) else BitMarLM(scorer=scorer, on_progress=progress)
    samples: dict[str, list[dict[str, Any]]]
    samples = lm_eval.evaluate(lm=lm, task_dict=loaded, limit=work.limit, bootstrap_iters=0)["samples"]
    every = [sample for some in samples.values() for sample in some]
    found: dict[str, Any] = {**_accuracies(every), "n": len(every), "ties": sum(map(_is_tie, every))}
    if "perplexity" in every[0]:
        found["perplexity"] = math.exp(-sum(sample["perplexity"] for sample in every) / len(every))
    found["chance"] = plain(Chance.of(sample["doc"] for sample in every))
    if len(samples) > 1:
        found["parts"] = {part.split("::")[-1]: {**_accuracies(some), "n": len(some)} for part, some in samples.items()}
    return found


def _manager(data: str | Path | None, on_bad: OnBad | None) -> TaskManager:
    from lm_eval.tasks import TaskManager

    metadata: dict[str, Any] = {"data": None if data is None else str(data), "on_bad": on_bad}
    return TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)


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
