"""`bitmar push` and `bitmar load`: to the Hugging Face Hub and from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitmar.cli.app import MAKE, USE, command
from bitmar.cli.common import Json, Model, needs
from bitmar.console import megabytes, print_table, say, write_json


@command(
    "bitmar push someone/my-model --model mine.bitmar --dry-run",
    "bitmar push someone/bitmar --figures docs/figures.json --photo photo.jpg",
    panel=MAKE,
)
def push(
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository.", show_default=False)],
    model: Model = None,
    folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder to build it in. Default: NAME-hub, here."),
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Licence, in place of the model card's.")] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="FILE", help="Results of this model, such as docs/figures.json."),
    ] = None,
    photos: Annotated[
        list[Path] | None,
        typer.Option("--photo", metavar="PHOTO", help="Show this photo with its caption; repeatable."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write and check the folder; upload nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Put a model on the Hugging Face Hub: the packed file, a checkpoint for transformers, and a model card.

    Without a login (`hf auth login`, or HF_TOKEN) it is a dry run: the folder is written and checked, and nothing
    leaves the machine.
    """
    from bitmar import load

    with needs("train"):
        from bitmar.hub import logged_in, prepare, upload

        folder = folder or Path(f"{repo.rpartition('/')[2]}-hub")
        ready = prepare(load(model), repo, folder, licence=licence, figures=figures, photos=photos or ())
        if not dry_run and logged_in():
            ready = upload(ready, private=private)
    if as_json:
        write_json(ready.to_dict())
    else:
        print_table(("file", "size"), [(name, megabytes(size)) for name, size in ready.files.items()])
    if ready.url:
        say(f"uploaded: {ready.url}")
    else:
        why = "" if dry_run else "not logged in, so "
        say(f"{why}nothing was uploaded; what would be is in {folder} ({megabytes(sum(ready.files.values()))})")


@command("bitmar load hf://someone/model", "bitmar load hf://someone/model@v2", panel=USE)
def load(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="hf://OWNER/NAME, with @REVISION if wanted; or what is here.", show_default=False
        ),
    ],
) -> None:
    """Fetch a model from the Hub, once, check it, and print the path of its file."""
    from bitmar.core.container import open_container
    from bitmar.runtime.locate import find_model

    typer.echo(open_container(find_model(model)).path)
