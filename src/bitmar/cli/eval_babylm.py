"""`bitmar eval babylm`: the zero-shot tasks of BabyLM's 2025 evaluation, whichever a folder has data for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import FAILED, SKIPPED, command
from bitmar.cli.common import Model
from bitmar.cli.eval_options import Engine, evaluate
from bitmar.console import STDOUT, Skipped, console, progress, resumable, say, table, write_json

if TYPE_CHECKING:
    from bitmar.evaluate.tasks.babylm.work import Work


@command(
    "bitmar eval babylm --data evaluation_data/full_eval --json out/babylm.json",
    "bitmar eval babylm --data evaluation_data --tasks blimp,ewok --engine torch --model runs/default/self_critical",
    group=evaluate,
)
def babylm(
    data: Annotated[
        Path, typer.Option("--data", metavar="DIR", help="BabyLM's evaluation_data, or a folder with parts of it.")
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="TASK[,TASK]", help="Only these. Can be repeated. Default: all with data."),
    ] = None,
    model: Model = None,
    engine: Engine = "auto",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only N items of a task, evenly spread over its files.")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write results here after every task, and resume from them; - for stdout.",
        ),
    ] = None,
) -> None:
    """Score a model on BabyLM's tasks: BLiMP and its supplement, EWoK, COMPS, entity tracking, nonce words, reading
    times, VQA, Winoground and DevBench.

    Scores are the pipeline's, but a tie counts half. Data that is not there is named as absent.
    """
    from bitmar.evaluate.scorer import load_scorer
    from bitmar.evaluate.tasks.babylm.registry import find_tasks
    from bitmar.evaluate.tasks.babylm.run import run_babylm

    names = [name for some in tasks or () for name in some.split(",") if name]
    find_tasks(names)  # a misspelt one is told before a model is loaded
    scorer = load_scorer(model, engine)
    to_stdout = json_file == STDOUT
    store = None if to_stdout else json_file
    with resumable(lambda: store if store and store.exists() else None), progress() as bar:
        on_bad = Skipped(bar)

        def on_task(name: str, work: Work) -> Work:
            line = bar.add_task(name, total=None)
            return replace(
                work, on_bad=on_bad, on_progress=lambda done, total: bar.update(line, completed=done, total=total)
            )

        document = run_babylm(scorer, data, names or None, limit=limit, store=store, on_task=on_task)
    if on_bad.reasons:
        say(str(on_bad))
    if to_stdout:
        write_json(document)
    else:
        print_table(document)
    states = {result["status"] for result in document["tasks"].values()}
    if "done" not in states:
        raise typer.Exit(FAILED)
    if "failed" in states or on_bad.reasons:
        raise typer.Exit(SKIPPED)


def print_table(document: dict[str, Any]) -> None:
    """A line per score, times 100 as the pipeline prints them; what has none says why."""
    shown = table("score x 100", "", "95 %", "chance", "items", "ties")
    reasons = []
    for task, result in document["tasks"].items():
        if result["status"] != "done":
            shown.add_row(task, result["status"])
            reasons.append(f"{task}: {result['message']}")
            continue
        for name, score in result["scores"].items():
            shown.add_row(
                name,
                _hundredfold(score["score"]),
                "" if score["score"] is None else f"{_hundredfold(score['low'])} to {_hundredfold(score['high'])}",
                _hundredfold(score["chance"]),
                f"{score['n']:,}",
                f"{score['tie_share']:.1%}",
            )
    to = console()
    to.print(shown)
    for reason in reasons:
        to.print(reason, markup=False, highlight=False, soft_wrap=True)
    limited = f", {document['limit']} items of each" if document["limit"] else ""
    to.print(f"{document['model']}, {document['scorer']}{limited}", highlight=False, soft_wrap=True)


def _hundredfold(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.2f}"
