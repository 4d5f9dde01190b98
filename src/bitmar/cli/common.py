"""What the commands share: options of one meaning, and ways to print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.core.errors import DependencyError

if TYPE_CHECKING:
    from rich.progress import Progress

SKIPPED, FAILED, STOPPED = 1, 2, 130  # exit statuses; 130 is what a shell gives for Ctrl-C
SHOWN = 20  # names in a summary; each was printed when it was met

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
Beams = Annotated[int, typer.Option("--beams", help="Beam search with so many beams; 1 is greedy.")]
Image = Annotated[str | None, typer.Option("--image", "-i", metavar="PHOTO", help="A photo that the text is about.")]
MemoryFile = Annotated[
    Path | None,
    typer.Option("--memory", metavar="FILE.mem", help="Read this memory meanwhile; `bitmar remember` fills it."),
]
Recite = Annotated[
    bool,
    typer.Option(
        "--recite/--no-recite",
        help="Beside --memory: begin with the remembered words where the photo is surely the remembered one.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the recipe: dots lead into it, values are YAML. Can be repeated."
    ),
]


def examples(*commands: str) -> str:
    """An epilog of commands, in rich markup."""
    lines = (command.replace("[", r"\[") for command in commands)
    return "\n\n".join(["[bold]Examples[/bold]", *(f"[cyan]$ {line}[/cyan]" for line in lines)])


def say(message: str) -> None:
    """A line for people, on stderr: stdout is the result's."""
    typer.echo(message, err=True)


def print_json(document: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def megabytes(count: int) -> str:
    """A size in bytes as people read it; 1 MB is 1,000,000 bytes."""
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count / 1e3:.2f} kB"


def progress() -> Progress:
    """A bar on stderr for work of unknown length: what, how many, how long."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


class Skipped:
    """Names, counts and shows the samples that bulk work leaves out. Give the object itself as `on_bad`."""

    def __init__(self, bar: Progress) -> None:
        self.reasons: dict[str, str] = {}
        self._bar = bar

    def __call__(self, name: str, reason: str) -> None:
        if name not in self.reasons:
            self.reasons[name] = reason
            self._bar.console.print(f"skipped {name}: {reason}", markup=False, highlight=False, soft_wrap=True)

    def as_list(self) -> list[dict[str, str]]:
        """For JSON."""
        return [{"name": name, "error": reason} for name, reason in self.reasons.items()]

    def __str__(self) -> str:
        if not self.reasons:
            return "nothing skipped"
        names = list(self.reasons)[:SHOWN]
        more = f" and {len(self.reasons) - SHOWN} more" if len(self.reasons) > SHOWN else ""
        return f"{len(self.reasons)} skipped: {', '.join(names)}{more}"


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Say which extra brings an optional package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "bitmar":
            raise
        raise DependencyError(f"this command needs {error.name}: pip install 'bitmar[{extra}]'") from error
