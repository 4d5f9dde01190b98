"""`bitmar ablate memory`: does the memory help, task by task, and what does it cost?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import JUDGE, command, make_group
from bitmar.cli.common import Model, needs
from bitmar.console import STDOUT, Skipped, console, progress, say, write_json
from bitmar.core.paths import data_files

if TYPE_CHECKING:
    from bitmar.evaluate.ablation import Ablation

ablation = make_group("ablate", "Switch a part of a model off and see what it was good for.", panel=JUDGE)

# What is measured below $BITMAR_DATA where the options say nothing.
SHARDS = "captions/flickr8k-val-*.tar"
TEXTS = ("gutenberg_novels", "switchboard", "fairytales")
PAIRS = "eval/babylm2025/blimp_filtered.zip"


@command(
    "bitmar ablate memory --json out/ablate.json",
    "bitmar ablate memory --model m.bitmar --data 'val-*.tar' --text novels.txt --heldout 1 --markdown table.md",
    group=ablation,
    name="memory",
    shards=True,
)
def ablate_memory(
    model: Model = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="SHARDS", help="WebDataset shards with captions. Can be repeated."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="FILE", help="Long texts, plain or compressed. Can be repeated."),
    ] = None,
    heldout: Annotated[
        float,
        typer.Option(
            "--heldout", min=0.0, max=1.0, help="Take the documents that `heldout` of a recipe keeps out; 1 is all."
        ),
    ] = 0.01,
    blimp: Annotated[
        Path | None, typer.Option("--blimp", metavar="ZIP|FOLDER|JSONL", help="Minimal pairs of sentences.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Draws of what is remembered.")] = 3,
    limit: Annotated[
        int,
        typer.Option("--limit", min=2, help="Photos; an eighth as many long documents, ten times as many pairs."),
    ] = 200,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as JSON; - for stdout.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the table here as Markdown.")
    ] = None,
) -> None:
    """Measure a model with its memory on, off and by the paper's literal equations: quality, speed and RAM.

    Without --data, --text and --blimp it measures on the photos, novels, talks and sentence pairs below $BITMAR_DATA.
    """
    from bitmar.api import load
    from bitmar.evaluate.ablation import Sources, ablate_memory

    sources = Sources(
        photos=data or data_files(SHARDS),
        texts=text or [path for name in TEXTS for path in data_files(f"text/{name}.txt.xz")],
        pairs=blimp or next((Path(path) for path in data_files(PAIRS)), None),
        heldout=heldout,
    )
    loaded = load(model)
    with needs("train"), progress() as bar:
        skipped, tasks = Skipped(bar), {}

        def on_step(name: str, done: int | None) -> None:
            if done == 0:
                tasks[name] = bar.add_task(name, total=None)
            else:
                bar.advance(tasks[name])

        found = ablate_memory(loaded, sources, seeds=seeds, limit=limit, on_step=on_step, on_bad=skipped)
    if skipped.reasons:
        say(str(skipped))
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(found.markdown(), encoding="utf-8")
    if json_file is not None:
        write_json({**found.to_dict(), "skipped": skipped.as_list()}, json_file)
    if json_file != STDOUT:
        _print(found)


def _print(found: Ablation) -> None:
    from rich.table import Table

    to = console()
    table = Table(title=f"{found.model}, {found.engine}, one thread", show_lines=True)
    for name in ("measure", "off", "on", "literal", "on - off [95 %]", "the memory", "what it holds"):
        table.add_column(name, min_width=26 if name == "measure" else None)
    for row in found.table()[1]:  # the other comparisons are in the sentences below and in the files
        measure, unit, n, off, on, literal, difference, *_, verdict, content = row
        table.add_row(f"{measure}\n[dim]{unit}, n = {n}[/dim]", off, on, literal, difference, verdict, content)
    to.print(table)
    for line in found.conclusion():
        to.print(line, markup=False, soft_wrap=True)
    for task, why in found.left_out.items():
        to.print(f"left out, {task}: {why}", markup=False, soft_wrap=True)
