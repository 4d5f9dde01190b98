"""`bitmar adapt`: a model for one's own photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import MAKE, SKIPPED, command
from bitmar.cli.common import Json, Model, needs
from bitmar.console import Skipped, print_table, progress, resumable, say, write_json

if TYPE_CHECKING:
    from bitmar.adapt import Adapted

SHOWN = 3  # captions, before and after


@command(
    "bitmar adapt photos/ --out mine.bitmar",
    "bitmar adapt captions.csv --out mine.bitmar --json",
    "bitmar adapt 'train-*.tar' --model model.bitmar --out mine.bitmar --epochs 5",
    panel=MAKE,
    shards=True,
)
def adapt(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS",
            help="A folder of photos with a .txt beside each, a table (.csv, .jsonl) of photo and caption, or shards.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT.bitmar", help="The file to write.", show_default=False)
    ],
    model: Model = None,
    heldout: Annotated[float, typer.Option("--heldout", help="Share of the photos to judge by.")] = 0.2,
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Passes over the photos. Default: 15, and at most 600 steps.")
    ] = None,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak learning rate.")] = 4e-3,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order and the augmentation of photos.")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads; 0 is all.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite OUT, and write a model that got worse, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit a model to your own captioned photos, in minutes on a CPU, and say how much better it describes others.

    A share of the photos is not trained on: the table has the figures on these, before and after. A model that got
    worse is not written, and the exit status is 1 then, as it is where photos were skipped. The same command goes on
    where a stopped one was.
    """
    from bitmar import load

    with needs("train,eval"):
        from bitmar.adapt import adapt as run
        from bitmar.train.adapting import Adapting

        settings = Adapting(epochs, learning_rate, seed=seed, threads=threads)
        work = out.with_name(f"{out.name}.partial")
        with resumable(lambda: work if work.exists() else None), progress() as bar:
            tasks = {}

            def show(name: str, done: int, total: int | None) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(name, total=total)
                bar.update(tasks[name], completed=done)
                if name == "before" and done == total:
                    bar.stop()  # training has a bar of its own

            report = run(
                photos,
                out,
                load(model),
                settings,
                heldout=heldout,
                force=force,
                on_bad=Skipped(bar),
                on_progress=show,
            )
    if as_json:
        write_json(report.to_dict())
    else:
        _print(report)
    if report.worse:
        kept = "written all the same" if report.written else f"{out} is not written; --force writes it"
        say(f"warning: the model got worse on the held-out photos: {kept}")
    if report.written:
        say(f"try it: bitmar caption PHOTO --model {out}")
    if report.skipped:
        say(f"{len(report.skipped)} skipped")
    if report.uncaptioned:
        say(f"{report.uncaptioned} photos without a caption left out")
    if report.worse or report.skipped:
        raise typer.Exit(SKIPPED)


def _print(report: Adapted) -> None:
    before, after, change, ratio = report.before, report.after, report.cider_change, report.perplexity_ratio
    typer.echo(f"{report.photos} photos trained on, {report.heldout} held out; in brackets 95 % intervals")
    print_table(
        ("on the held-out photos", "before", "after", "change"),
        [
            (
                "CIDEr, higher is better",
                f"{before.cider:.3f}",
                f"{after.cider:.3f}",
                f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
            ),
            (
                "perplexity of people's captions, lower is better",
                f"{before.perplexity:.2f}",
                f"{after.perplexity:.2f}",
                f"x {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
            ),
        ],
    )
    for photo in list(before.captions)[:SHOWN]:
        typer.echo(f"{photo}\n  before: {before.captions[photo]}\n  after:  {after.captions[photo]}")
