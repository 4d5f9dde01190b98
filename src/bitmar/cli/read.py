"""`bitmar read`: a text of any length from a file or stdin, at constant memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from bitmar.cli.app import USE, command
from bitmar.cli.common import Image, MemoryFile, Model
from bitmar.console import STDOUT, progress, say, write_json


@command(
    "bitmar read novel.txt",
    "xzcat novels.txt.xz | bitmar read --every 100000 --json out/read.json",
    "bitmar read diary.txt --memory home.mem --remember",
    panel=USE,
)
def read(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A text file, UTF-8. Default: stdin.", show_default=False)
    ] = None,
    model: Model = None,
    image: Image = None,
    memory: MemoryFile = None,
    remember: Annotated[
        bool,
        typer.Option(
            "--remember", help="Write each segment into the memory when it ends; without --memory, for this text only."
        ),
    ] = False,
    every: Annotated[int, typer.Option("--every", min=1, help="Report every N tokens.")] = 10_000,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Stop after N tokens; 0 reads to the end.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as JSON; - for stdout.")
    ] = None,
) -> None:
    """Read a text of any length and report perplexity, time per token and memory at intervals."""
    from bitmar.api import load

    loaded = load(model)
    session = None
    rows: list[dict[str, Any]] = []
    tokens = 0
    with progress() as bar, ExitStack() as stack:
        if memory is not None:
            from bitmar.cli.memory import open_memory

            session = stack.enter_context(open_memory(loaded, memory, make=remember))
        if file is not None:
            source: TextIO = stack.enter_context(file.open(encoding="utf-8", errors="replace"))
        else:
            source = typer.get_text_stream("stdin", encoding="utf-8", errors="replace")
        task = bar.add_task("tokens", total=None)
        for passage in loaded.read(source, image, memory=session, remember=remember, every=every):
            tokens += passage.tokens
            rows.append({
                "tokens": tokens,
                "perplexity": passage.perplexity,
                "ms_per_token": 1e3 * passage.seconds / passage.tokens,
                "rss_mb": _resident_mb(),
                "log_probability": passage.log_probability,
            })  # fmt: skip
            bar.update(task, completed=tokens)
            if limit and tokens >= limit:
                break
    if not rows:
        say("the text is empty")
        return
    if session is not None and remember:
        say(f"{memory}: {len(session)} of {session.file.shape.slots} slots hold an episode")
    total = sum(row["log_probability"] for row in rows)
    document = {"model": str(loaded.path), "engine": loaded.engine.name, "tokens": tokens,
                "perplexity": _perplexity(total, tokens), "passages": rows}  # fmt: skip
    if json_file is not None:
        write_json(document, json_file)
    if json_file == STDOUT:
        return
    for row in rows if len(rows) <= 12 else [*rows[:5], *rows[-5:]]:
        resident = "" if row["rss_mb"] is None else f", {row['rss_mb']:.1f} MB"
        typer.echo(f"{row['tokens']:>12,}  perplexity {row['perplexity']:.2f}, {row['ms_per_token']:.3f} ms{resident}")
    typer.echo(f"{tokens:,} tokens, perplexity {document['perplexity']:.2f}, {loaded.engine.name}")


def _perplexity(log_probability: float, tokens: int) -> float:
    from math import exp

    return exp(-log_probability / tokens)


def _resident_mb() -> float | None:
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024 / 1e6
    except OSError:
        return None
