"""Shared by the commands under `bitmar eval`: options, loading a model, logs, printing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.app import JUDGE, make_group
from bitmar.console import STDOUT, Skipped, print_table, resumable, say, write_json
from bitmar.core.errors import ConfigError

if TYPE_CHECKING:
    from bitmar.evaluate.protocol import PictureScorer
    from bitmar.evaluate.store import ResultLog

evaluate = make_group("eval", "Measure a model with the field's own tasks.", panel=JUDGE)

Shards = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="SHARDS", help="WebDataset shards with captions: paths, globs, braces, URLs. Can be repeated."
    ),
]
Engine = Annotated[
    str, typer.Option("--engine", metavar="ENGINE", help="auto, runtime, torch, numpy, or a path of `bitmar doctor`.")
]
Features = Annotated[
    Path | None,
    typer.Option("--features", metavar="FOLDER", help="The photos' patch features, for a model without a tower."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=2, help="Only the first N photos.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as JSON; - for stdout.")
]


def load_seeing(model: str | None, engine: str, features: Path | None, shards: Sequence[str] = ()) -> PictureScorer:
    """A model that can take the pictures at hand, or a ConfigError that says what is missing.

    shards: that have to be there before anything is loaded or written.
    """
    from bitmar.data.shards import expand_shards
    from bitmar.evaluate.scorer import load_scorer

    expand_shards(shards)
    scorer = load_scorer(model, engine)
    if features is None and not scorer.has_tower:
        raise ConfigError(
            f"{scorer.name} has no vision tower: it needs the patch features that it was trained on; extract them with "
            "`bitmar features` and name their folder with --features"
        )
    return scorer


def open_log(json_file: Path | None, scorer: PictureScorer, task: dict[str, Any]) -> ResultLog | None:
    """The log that an unfinished run of the same task left beside the file of its figures; None without such a file."""
    from bitmar.evaluate.store import ResultLog

    if json_file in (None, STDOUT):
        return None
    log = ResultLog(json_file.with_name(f"{json_file.name}.partial"), {"model": _fingerprint(scorer), **task})
    if log.replaced:
        say(log.replaced)
    return log


def goes_on(log: ResultLog | None) -> AbstractContextManager[None]:
    """While a command works: what Ctrl-C leaves to go on from, where the log has something by then."""
    return resumable(lambda: log.path if log is not None and log.found else None)


def _fingerprint(scorer: PictureScorer) -> str:
    from bitmar.evaluate.scorer import RuntimeScorer

    if isinstance(scorer, RuntimeScorer):
        return f"{scorer.model.engine.name} {scorer.model.container.checksum}"
    return hashlib.sha256((Path(scorer.name) / "model.safetensors").read_bytes()).hexdigest()


def publish(
    document: dict[str, Any], rows: Iterable[Sequence[str]], heads: Sequence[str], json_file: Path | None
) -> None:
    """Write the figures as JSON where that was asked for, and print them as a table unless stdout has the JSON."""
    if json_file is not None:
        write_json(document, json_file)
    if json_file != STDOUT:
        print_table(heads, rows)


def begin(command: str, scorer: PictureScorer, **rest: Any) -> dict[str, Any]:
    """The first keys of every document."""
    return {"task": command, "model": scorer.name, "scorer": type(scorer).__name__, **rest}


def name_skipped(skipped: Skipped) -> None:
    """A line on what was left out, if anything was."""
    if skipped.reasons:
        say(str(skipped))
