"""A task: a line of the table (`bitmar.evaluate.table`), which the command line and the report go through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from bitmar.core.errors import ConfigError, nearest
from bitmar.evaluate.folder import EvalData, files_of
from bitmar.evaluate.tables import OURS, Picture, Results, Table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Option:
    """About a keyword of a task's `run`, which is an option of its command.

    reads: that it names shards, or a path, which must be there. least, most: of a number.
    """

    help: str
    metavar: str | None = None
    reads: Literal["shards", "path"] | None = None
    least: float | None = None
    most: float | None = None


_SHARDS = (
    "WebDataset shards with captions: paths, globs, braces, URLs. Can be repeated. Default: those in $BITMAR_DATA."
)
Shards = Annotated[list[str], Option(_SHARDS, "SHARDS", "shards")]
Features = Annotated[Path | None, Option("The photos' patch features, for a model without a tower.", "FOLDER", "path")]

Options = Mapping[str, Any]
"""Keywords of a task's `run`."""


def read_by(options: Options) -> list[Path]:
    """The files that options name."""
    values = (value for value in options.values() if isinstance(value, (str, Path, list)))
    return files_of(*(each for value in values for each in (value if isinstance(value, list) else [value])))


def pick(names: Sequence[str] | None, known: Mapping[str, T], what: str) -> list[T]:
    """The named ones in the order of `known`, all if none is named. ConfigError for others, with the nearest name."""
    for name in names or ():
        if name not in known:
            raise ConfigError(f"no {what} is called {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    return [each for name, each in known.items() if not names or name in names]


@dataclass(frozen=True, slots=True)
class Task:
    """A line of the table. The name is that of its section in a report."""

    name: str
    title: str
    run: Callable[..., dict[str, Any]]  # (scorer, work, **options) -> the result, ready for JSON
    files: Callable[[EvalData], dict[str, Any]]  # what it reads of a folder, as options of `run`; raises Absent
    tables: Callable[[Results], Iterable[Table | Picture]]  # of the results of several models
    chance: str = ""  # what stands beside its figures as chance
    paper: Mapping[str, Any] = field(default_factory=dict)  # the paper's figures, by part; empty where it has none

    command: str = ""  # that gives the same figures, where it is not `bitmar eval NAME`
    sees: bool = False  # whether the model has to see photos
    fills: bool = True  # whether the command reads what $BITMAR_DATA has where its options say nothing
    parts: bool = False  # whether the result is by part, each of which fails alone
    kept: Callable[..., dict[str, Any]] | None = None  # (**options) -> what a kept result depends on; None: not kept
    least: int = 1  # the smallest limit
    counts: str = "the first N items"  # what a limit counts
    examples: tuple[str, ...] = ()

    chapter: str = ""  # of a report
    roles: tuple[str, ...] = (OURS,)  # whom a report measures by it
    reads: Callable[[Options], list[Path]] = read_by  # whose contents make a result another one
    sizes: Callable[[int | None], dict[str, Any]] = lambda limit: {}  # (limit) -> options in a report
    seconds: float = 0  # for the `items` of the reference data on two idle cores; a limit takes a part of them
    fixed: float = 1  # seconds that do not shrink
    items: int = 1

    @property
    def line(self) -> str:
        """The command that gives the same figures, without options."""
        return self.command or f"bitmar eval {self.name}"

    def estimate(self, limit: int | None) -> float:
        """Seconds, of the bundled model on its native engine."""
        return self.fixed + self.seconds * (1.0 if limit is None else min(1.0, limit / self.items))
