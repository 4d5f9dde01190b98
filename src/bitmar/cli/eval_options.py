"""What the commands under `bitmar eval` that look at pictures share: options, where a model is loaded, how to print."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitmar.cli.common import Skipped, print_json, say
from bitmar.core.errors import ConfigError
from bitmar.core.files import write_atomically

if TYPE_CHECKING:
    from bitmar.evaluate.result_log import ResultLog
    from bitmar.evaluate.scorer import PictureScorer

STDOUT = "-"

Shards = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="SHARDS", help="WebDataset shards with captions: paths, globs, braces, URLs. Can be repeated."
    ),
]
Half = Annotated[str, typer.Option("--half", metavar="HALF", help="auto, runtime, or torch: who computes.")]
Features = Annotated[
    Path | None,
    typer.Option("--features", metavar="FOLDER", help="The photos' patch features, for a model without a tower."),
]
Limit = Annotated[int | None, typer.Option("--limit", min=2, help="Stop after so many photos.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as JSON; - for stdout.")
]


def load_seeing(model: str | None, half: str, features: Path | None) -> PictureScorer:
    """A model that can take the pictures at hand, or a ConfigError that says what is missing."""
    from bitmar.evaluate.scorer import load_scorer

    scorer = load_scorer(model, half)
    if features is None and not scorer.has_tower:
        raise ConfigError(
            f"{scorer.name} has no vision tower: it needs the patch features that it was trained on; extract them with "
            "`bitmar features` and name their folder with --features"
        )
    return scorer


def open_log(json_file: Path | None, scorer: PictureScorer, task: dict[str, Any]) -> ResultLog | None:
    """What a run of the same task has left beside the file of its figures; None where these go nowhere."""
    from bitmar.evaluate.result_log import ResultLog

    if json_file is None or str(json_file) == STDOUT:
        return None
    return ResultLog(json_file.with_name(f"{json_file.name}.partial"), {"model": _fingerprint(scorer), **task})


def _fingerprint(scorer: PictureScorer) -> str:
    from bitmar.evaluate.scorer import RuntimeScorer

    if isinstance(scorer, RuntimeScorer):
        return f"{scorer.model.engine.name} {scorer.model.container.checksum}"
    return hashlib.sha256((Path(scorer.name) / "model.safetensors").read_bytes()).hexdigest()


def publish(
    document: dict[str, Any], rows: Iterable[Sequence[str]], heads: Sequence[str], json_file: Path | None
) -> None:
    """The figures as JSON where they were asked for, else (or beside a file) as a table."""
    if str(json_file) == STDOUT:
        print_json(document)
        return
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_file, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def begin(command: str, scorer: PictureScorer, **rest: Any) -> dict[str, Any]:
    """What every document begins with."""
    return {"task": command, "model": scorer.name, "scorer": type(scorer).__name__, **rest}


def name_skipped(skipped: Skipped) -> None:
    """A line on what was left out, if anything was."""
    if skipped.reasons:
        say(str(skipped))
