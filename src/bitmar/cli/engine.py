"""`bitmar doctor` and `bitmar bench`: what runs a model here, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import USE, command
from bitmar.cli.common import Json, Model, show
from bitmar.console import STDOUT, say, write_json

FOUND = 1  # exit status of a diagnosis that found a fault


@command("bitmar doctor", "BITMAR_KERNEL=avx2 bitmar doctor --json", panel=USE)
def doctor(as_json: Json = False) -> None:
    """Say which engine runs here, which kernel path it takes, and why the others are left out."""
    from bitmar.runtime.diagnosis import diagnose

    about = diagnose()
    if as_json:
        write_json(about)
        raise typer.Exit(0 if about["chosen"] else FOUND)
    typer.echo(f"bitmar {about['version']}, Python {about['python']}, {about['system']}")
    typer.echo(f"processor: {about['processor']}")
    for path in about["paths"]:
        mark = "chosen" if path["name"] == about["chosen"] else "runs" if not path["reason"] else "left out"
        typer.echo(f"  {path['name']:<13}{mark}{': ' + path['reason'] if path['reason'] else ''}")
    if about["chosen"]:
        typer.echo(f"engine: {about['chosen']}, because {about['because']}")
    typer.echo(f"bundled model: {about['model']}")
    if not about["chosen"]:
        say(about["because"])
        raise typer.Exit(FOUND)


@command(
    "bitmar bench",
    "bitmar bench --path avx2 --path portable",
    "bitmar bench --model m.bitmar --json out/bench.json",
    panel=USE,
)
def bench(
    model: Model = None,
    photo: Annotated[
        Path | None,
        typer.Option("--photo", metavar="PHOTO", help="A photo to time; default: a made-up JPEG, 640 x 480."),
    ] = None,
    paths: Annotated[
        list[str] | None, typer.Option("--path", metavar="PATH", help="A kernel path, or numpy. Can be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens to time at each context.")] = 200,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here as JSON; - for stdout.")
    ] = None,
) -> None:
    """Measure tokens per second, milliseconds per photo, start-up and memory, on every path that runs here."""
    from bitmar.api import BitMar
    from bitmar.core.container import open_container
    from bitmar.evaluate.tasks import speed
    from bitmar.runtime.backend import NUMPY
    from bitmar.runtime.choose import choose_backend
    from bitmar.runtime.diagnosis import diagnose, native_paths
    from bitmar.runtime.locate import find_model

    container = open_container(find_model(model))
    jpeg = photo.read_bytes() if photo else speed.sample_photo()
    about = diagnose()
    figures: dict[str, Any] = {}
    for path in paths or [*(name for name, reason in native_paths() if not reason), NUMPY]:
        say(f"measuring {path}")
        slow = path == NUMPY
        engine = choose_backend(container, path)
        figures[path] = speed.measure_path(
            container, engine, contexts=speed.CONTEXTS, tokens=min(tokens, 20) if slow else tokens
        )
        has_tower = container.config.vision_tower is not None
        if has_tower:
            figures[path] |= speed.measure_caption(BitMar(container, engine=path), jpeg)
        figures[path] |= speed.measure_start(model, path, jpeg if has_tower else None)
    document = {"doctor": about, "model": str(container.path), "threads": 1, "paths": figures}
    if json_file is not None:
        write_json(document, json_file)
    if json_file != STDOUT:
        note = f"{document['model']}; {about['processor']}; one thread, medians"
        show(speed.table("Speed", figures, note))
