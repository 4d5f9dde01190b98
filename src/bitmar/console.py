"""Output of long work: lines and bars on stderr for people, tables and JSON on stdout or in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitmar.core.files import write_atomically

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

STDOUT = Path("-")
SHOWN = 20  # names in a summary; each was printed when it was met

_WIDEST = 10_000  # columns of what is no terminal: a table in a file or a pipe is cut nowhere


def say(message: str) -> None:
    """A line for people, on stderr: stdout is the result's."""
    print(message, file=sys.stderr, flush=True)


def write_json(document: Any, path: Path | None = None) -> None:
    """One JSON document to a file, whose folder is made; without a path, or with `-`, to stdout."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if path is None or path == STDOUT:
        sys.stdout.write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())


def megabytes(count: int) -> str:
    """A size in bytes as people read it; 1 MB is 1,000,000 bytes."""
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count / 1e3:.2f} kB"


def console() -> Console:
    """For tables: stdout, as wide as they need unless that is a terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDEST)


def table(*heads: str, title: str | None = None) -> Table:
    """A table that wraps its cells where it must and never shortens them; the figures stand to the right."""
    from rich.table import Table

    made = Table(title=title)
    for place, head in enumerate(heads):
        made.add_column(head, overflow="fold", justify="right" if place else "left")
    return made


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout."""
    made = table(*heads)
    for row in rows:
        made.add_row(*row)
    console().print(made)


def progress(*, size: bool = False, to: Console | None = None, hidden: bool = False) -> Progress:
    """A bar on stderr: what, how many (or with `size` how many bytes), how long, how long still.

    It appears with the first sign of work, so that an error before it stands alone. to: another console.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Bar(Progress):
        def __enter__(self) -> Bar:
            return self

        def update(self, *arguments: Any, **options: Any) -> None:
            self.start()
            super().update(*arguments, **options)

        def advance(self, *arguments: Any, **options: Any) -> None:
            self.start()
            super().advance(*arguments, **options)

        def stop(self) -> None:
            if self.live.is_started:
                super().stop()

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if size else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=to or Console(stderr=True),
        disable=hidden,
    )


class Steps:
    """Shows the progress of one piece of work after another: (what, units done or None for one more, units or None).

    alone: only the latest one is on the screen.
    """

    def __init__(self, bar: Progress, alone: bool = False) -> None:
        self._bar, self._alone = bar, alone
        self._lines: dict[str, Any] = {}

    def __call__(self, what: str, done: int | None, total: int | None) -> None:
        if what not in self._lines:
            if self._alone:
                for line in self._lines.values():
                    self._bar.remove_task(line)
                self._lines.clear()
            self._lines[what] = self._bar.add_task(what, total=total)
        elif total is not None:
            self._bar.update(self._lines[what], total=total)
        if done is None:
            self._bar.advance(self._lines[what])
        else:
            self._bar.update(self._lines[what], completed=done)


class Skipped:
    """Names, counts and shows the samples that bulk work leaves out. Give the object itself as `on_bad`.

    bar: whose console shows each of them; None where the work itself does.
    """

    def __init__(self, bar: Progress | None = None) -> None:
        self.reasons: dict[str, str] = {}
        self._bar = bar

    def __call__(self, name: str, reason: str) -> None:
        if name not in self.reasons:
            self.reasons[name] = reason
            if self._bar is not None:
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
def resumable(kept: Callable[[], Path | None]) -> Iterator[None]:
    """Tells whoever presses Ctrl-C what the same command will go on from: `kept()`, None if there is nothing yet."""
    try:
        yield
    except KeyboardInterrupt:
        path = kept()
        if path is None:
            raise
        raise KeyboardInterrupt(f"{path} is kept: run the same command again to go on") from None
