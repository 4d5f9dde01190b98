"""Options of one meaning that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.console import console, resumable, table
from bitmar.core.errors import DependencyError, pip_install

if TYPE_CHECKING:
    from bitmar.evaluate.tables import Table

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A .bitmar file, a folder with one, or a Hub id. Default: the bundled one.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Beams = Annotated[
    int | None,
    typer.Option(
        "--beams",
        metavar="N",
        help="Beam search with N beams; 1 is greedy. By default the one of several captions that the photo bears out.",
    ),
]
Image = Annotated[str | None, typer.Option("--image", "-i", metavar="PHOTO", help="The photo that the text is about.")]
MemoryFile = Annotated[
    Path | None,
    typer.Option("--memory", metavar="FILE.mem", help="Read this memory while generating; `bitmar remember` fills it."),
]
Recite = Annotated[
    bool,
    typer.Option(
        "--recite/--no-recite",
        help="With --memory: begin with the remembered words if the photo is certainly the remembered one.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|HOST:PORT",
        help="Spread the shards over the nodes of a Ray cluster; without one, auto takes this machine's cores.",
        show_default=False,
    ),
]
RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A YAML file; see docs/recipes.md.", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the recipe: dots lead into it, values are YAML. Can be repeated."
    ),
]


_JUSTIFY: dict[str, Any] = {"text": "left"}
_STYLE = {"good": "green", "bad": "red", "missing": "dim"}


def resumable_training(folder: Path) -> AbstractContextManager[None]:
    """`resumable` for a folder of runs, in which a checkpoint or a finished stage may be."""
    kept = ("checkpoint-*", "finished.json")
    return resumable(lambda: folder if any(found for name in kept for found in folder.rglob(name)) else None)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say which extra brings an optional package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "bitmar":
            raise
        raise DependencyError(f"this command needs {error.name}: {pip_install(extra)}") from error


def show(made: Table) -> None:
    """A table on stdout, its note beneath."""
    from rich.text import Text

    to = console()
    if made.rows:
        shown = table(*made.head, title=made.title)
        for row in made.cells:
            shown.add_row(
                *(Text(each.text, _STYLE.get(each.kind, ""), justify=_JUSTIFY.get(each.kind)) for each in row)
            )
        to.print(shown)
    if made.note:
        to.print(Text(made.note), soft_wrap=True)
