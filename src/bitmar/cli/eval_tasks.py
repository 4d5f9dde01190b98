"""`bitmar eval tasks`: the zero-shot tasks of lm-evaluation-harness, on the archives of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import FAILED, SKIPPED, command
from bitmar.cli.common import Model
from bitmar.cli.eval_options import Engine, JsonFile, begin, evaluate, goes_on, name_skipped, open_log, publish
from bitmar.console import Skipped, progress, say


@command(
    "bitmar eval tasks --json out/tasks.json",
    "bitmar eval tasks --tasks arc_easy,boolq,winogrande --data archives --limit 100",
    group=evaluate,
    name="tasks",
)
def eval_tasks(
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="TASK[,TASK]", help="Only these. Can be repeated. Default: all."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="The folder of the archives. Default: $BITMAR_EVAL_DATA, else eval/lm_eval below $BITMAR_DATA.",
        ),
    ] = None,
    model: Model = None,
    engine: Engine = "auto",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N questions of each task or MMLU subject.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Score a model on ARC, BoolQ, CommonsenseQA, COPA, LAMBADA, MMLU, OpenBookQA, PIQA, WinoGrande, and a sample of
    HellaSwag, without examples.

    norm: by log-probability per character. most: always the place that is most often right. ties: of the best answers.
    With --json FILE a killed run resumes after the last finished task.
    """
    from bitmar.evaluate.scorer import load_scorer
    from bitmar.evaluate.tasks.zero_shot.run import DONE, evaluate_tasks, find_tasks

    names = find_tasks([name for some in tasks or () for name in some.split(",") if name])
    scorer = load_scorer(model, engine)
    log = open_log(json_file, scorer, {"command": "tasks", "scorer": type(scorer).__name__, "limit": limit})
    with goes_on(log), progress() as bar:
        skipped = Skipped(bar)
        lines = {name: bar.add_task(name, total=None, visible=False) for name in names}

        def on_progress(name: str, done: int, total: int) -> None:
            bar.update(lines[name], completed=done, total=total, visible=True)

        results = evaluate_tasks(
            scorer, names, data=data, limit=limit, on_progress=on_progress, on_bad=skipped, log=log
        )
    document = begin("tasks", scorer, data=data and str(data), limit=limit, tasks=results)
    rows = [_row(name, result) for name, result in results.items() if result["status"] == DONE]
    publish(document, rows, ("task", "acc (95 %)", "norm", "chance", "most", "n", "ties"), json_file)
    name_skipped(skipped)
    failed = {name: result["message"] for name, result in results.items() if result["status"] != DONE}
    for name, message in failed.items():
        say(f"{name}: {message}")
    if log is not None:
        log.close()
        if not failed:
            log.path.unlink()
    if len(failed) == len(results):
        raise typer.Exit(FAILED)
    if failed or skipped.reasons:
        raise typer.Exit(SKIPPED)


def _row(name: str, result: Mapping[str, Any]) -> list[str]:
    """In per cent, at most 80 columns wide; the document has the rest."""
    acc, norm, chance = result["acc"], result.get("acc_norm"), result["chance"]
    return [
        name.removeprefix("bitmar_"),
        f"{100 * acc['value']:.1f} ({100 * acc['low']:.1f}-{100 * acc['high']:.1f})",
        "" if norm is None else f"{100 * norm['value']:.1f}",
        f"{100 * chance['uniform']:.1f}",
        f"{100 * chance['majority']:.1f}",
        str(result["n"]),
        f"{result['ties'] / result['n']:.1%}",
    ]
