"""`bitmar report`: everything that is claimed of a model, measured, beside the paper's figures, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import FAILED, JUDGE, SKIPPED, command
from bitmar.cli.common import Model, needs
from bitmar.console import Skipped, Steps, progress, resumable, say
from bitmar.core.paths import data_folder

if TYPE_CHECKING:
    from rich.progress import Progress

    from bitmar.report.write import Watch


@command(
    "bitmar report --out report",
    "bitmar report --limit 50 --only tasks,captions --out quick",
    "bitmar report --model runs/mine --baseline runs/unquantised --data evaluation_data --out report",
    panel=JUDGE,
    shards=True,
)
def report(
    model: Model = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write the report to.")] = Path(
        "report"
    ),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Evaluation data, laid out as in docs/report.md. Default: $BITMAR_DATA."
        ),
    ] = None,
    captions: Annotated[
        list[str] | None,
        typer.Option("--captions", metavar="SHARDS", help="Shards with captions outside --data. Can be repeated."),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="MODEL", help="A model of the same size, unquantised. Can be repeated."),
    ] = None,
    text_model: Annotated[
        str | None, typer.Option("--text-model", metavar="MODEL", help="A text-only model, for the language tables.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", metavar="NAME", help="Another causal model on the Hub, for Table 1. Can be repeated."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="The model's training run, for Figures 2 and 3.")
    ] = None,
    finetuned: Annotated[
        Path | None, typer.Option("--finetuned", metavar="DIR", help="A folder with finished fine-tunings, TASK/.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="SECTION[,SECTION]", help="Measure only these now. Can be repeated."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=2, help="Only N items of each task, for a quick look.")
    ] = None,
) -> None:
    """Run every evaluation that the data allow on MODEL; write report.html, report.md and report.json.

    Each figure stands beside the paper's, chance, and a baseline; what cannot be measured is listed with the reason. A
    killed run resumes with the same command: a finished section is measured again only if model, data, version or limit
    change.
    """
    with needs("eval"):
        from bitmar.report.write import write_report
    with resumable(lambda: out if any(out.rglob("*.result.json")) else None), progress() as bar:
        found = write_report(
            model,
            out,
            data=data or data_folder(),
            captions=captions or (),
            baselines=baseline or (),
            text_model=text_model,
            peers=peer or (),
            run=run,
            finetuned=finetuned,
            only=[name for some in only or () for name in some.split(",") if name],
            limit=limit,
            watch=_watch(bar),
        )
    for line in found.failed:
        say(f"failed: {line}")
    say(f"{found.measured} sections measured: {found.html}, {found.markdown}, {found.json}")
    if not found.measured:
        raise typer.Exit(FAILED)
    if found.failed:
        raise typer.Exit(SKIPPED)


def _watch(bar: Progress) -> Watch:
    from bitmar.report.write import Watch

    sections = bar.add_task("sections", total=None)

    def tell(text: str) -> None:
        bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def on_plan(todo: int, finished: int, seconds: float) -> None:
        bar.update(sections, total=todo)
        about = f", about {max(1, round(seconds / 60))} min on two idle cores" if todo else ""
        tell(f"{todo} sections to measure{about}; {finished} are finished")

    def on_job(title: str, number: int) -> None:
        bar.update(sections, completed=number - 1, description=f"sections: {title}")

    def on_end(title: str, reason: str) -> None:
        bar.advance(sections)
        if reason:
            tell(f"not measured, {title}: {reason}")

    return Watch(on_plan, on_job, Steps(bar, alone=True), on_end, Skipped(bar))
