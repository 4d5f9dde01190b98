"""`bitmar finetune`: a classifier on a trained checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import MAKE, SKIPPED, command
from bitmar.cli.common import needs, resumable_training
from bitmar.console import SHOWN, STDOUT, say, write_json
from bitmar.core.errors import ConfigError

if TYPE_CHECKING:
    from bitmar.train.finetune_report import FinetuneReport
    from bitmar.train.tasks import Task


@command(
    "bitmar finetune rte --data glue_filtered --model runs/default/self_critical --out runs/rte",
    "bitmar finetune boolq --data glue_filtered --model runs/default --out runs/boolq --seeds 3 --json boolq.json",
    "bitmar finetune --train a.jsonl --valid b.jsonl --text-field review --label-field stars -m runs/mine -o out",
    panel=MAKE,
)
def finetune(
    model: Annotated[
        Path,
        typer.Option(
            "--model", "-m", metavar="FOLDER", help="A checkpoint folder, or a run: its last stage.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="What to write.", show_default=False)],
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK", help="boolq, mnli, mrpc, multirc, qqp, rte, wsc, cola or sst2.", show_default=False
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FOLDER", help="BabyLM's TASK.train.jsonl and TASK.valid.jsonl, or their .zip."),
    ] = None,
    train: Annotated[Path | None, typer.Option("--train", metavar="FILE", help="A training set, .jsonl.")] = None,
    valid: Annotated[
        Path | None,
        typer.Option("--valid", metavar="FILE", help="With --train: selects the epoch, and is measured."),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="FILE", help="Test set. --valid then only selects the epoch."),
    ] = None,
    text_fields: Annotated[
        list[str] | None,
        typer.Option("--text-field", metavar="NAME", help="Without TASK: field of the text; twice for pairs of texts."),
    ] = None,
    label_field: Annotated[
        str,
        typer.Option("--label-field", metavar="NAME", help="Without TASK: field of the label, integers or words."),
    ] = "label",
    metric: Annotated[
        str, typer.Option("--metric", help="Without TASK: the metric that selects the epoch: accuracy, f1 or mcc.")
    ] = "accuracy",
    seeds: Annotated[int, typer.Option("--seeds", help="Number of runs, for a mean with its interval.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first run; each further run adds 1.")] = 42,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 3e-5,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Batch size. Default: 32; 16 for boolq and multirc.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the training set. Default: 10; 30 for wsc.")
    ] = None,
    lines: Annotated[
        int | None, typer.Option("--lines", help="Train on N lines of the training set. Default: all.")
    ] = None,
    frozen: Annotated[
        bool,
        typer.Option("--frozen", help="Train the head alone, on states that are computed once: minutes, not hours."),
    ] = False,
    max_length: Annotated[int, typer.Option("--max-length", help="Longest input in tokens; the rest is cut.")] = 512,
    pooling: Annotated[str, typer.Option("--pooling", help="Pooling of the hidden states: last or mean.")] = "last",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 is all.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the report here as JSON, too; - for stdout.")
    ] = None,
) -> None:
    """Train a classifier on top of a checkpoint: a task of (Super)GLUE as BabyLM 2025 has it, or your own data.

    OUT gets report.json and, for every seed, the fine-tuned model, its log, and predictions.jsonl. The same command
    goes on where a stopped one was. Lines that do not fit are named and left out; then the exit status is 1.
    """
    from bitmar.train.runs import check_checkpoint, is_run, last_model
    from bitmar.train.tasks import data_files

    chosen = _task(task, text_fields, label_field, metric, train)
    data_files(chosen, data, train, valid, test)  # is refused here, before torch is loaded
    checkpoint = last_model(model) if is_run(model) else model
    check_checkpoint(checkpoint)
    with needs("train"), resumable_training(out):
        from bitmar.train.finetune import Protocol  # after the checks: torch takes its time
        from bitmar.train.finetune import finetune as run

        skipped: dict[str, str] = {}

        def on_bad(where: str, reason: str) -> None:
            skipped[where] = reason
            if len(skipped) <= SHOWN:
                say(f"skipped {where}: {reason}")

        report = run(
            chosen,
            checkpoint,
            out,
            data=data,
            train=train,
            valid=valid,
            test=test,
            seeds=seeds,
            seed=seed,
            protocol=Protocol(
                learning_rate, batch, epochs, max_length, pooling, lines=lines, frozen=frozen, threads=threads
            ),
            on_bad=on_bad,
        )
    if skipped:
        say(f"{len(skipped)} lines skipped")
    if json_file is not None:
        write_json(report.to_dict(), json_file)
    if json_file != STDOUT:
        _print(report)
    say(f"models, logs and predictions are in {out}")
    if skipped:
        raise typer.Exit(SKIPPED)


def _task(name: str | None, text_fields: list[str] | None, label_field: str, metric: str, train: Path | None) -> Task:
    from bitmar.train.tasks import TASKS, find_task, own_task

    if name is not None:
        if text_fields:
            raise ConfigError(f"{name} has its own fields: leave out either TASK or --text-field")
        return find_task(name)
    if not text_fields or train is None:
        raise ConfigError(
            f"name a task ({', '.join(TASKS)}), or data of your own with --train, --valid and --text-field"
        )
    return own_task(train.stem, text_fields, label_field, metric)


def _print(report: FinetuneReport) -> None:
    """A line per metric, in %: the model, its interval, the commonest class."""
    many = len(report.seeds) > 1
    over = f", mean of {len(report.seeds)} seeds" if many else ""
    typer.echo(f"{report.task}: {report.items} lines of the {report.split} file{over}; in brackets 95 % intervals")
    for name, value in report.mean.items():
        line = f"  {name:9}{_percent(value.value)} [{_percent(value.low)}, {_percent(value.high)}]"
        if report.over_seeds is not None:
            seeds = report.over_seeds[name]
            line += f", over seeds [{_percent(seeds.low)}, {_percent(seeds.high)}]"
        line += f"   always {report.majority_label!r} {_percent(report.majority[name])}"
        if name == "accuracy" and report.paper is not None:
            line += f"   paper {report.paper:5.1f}"
        typer.echo(line)
    typer.echo(f"  {'above' if report.above_majority else 'not above'} the commonest class; trained: {report.training}")


def _percent(share: float) -> str:
    return f"{100 * share:5.1f}"
