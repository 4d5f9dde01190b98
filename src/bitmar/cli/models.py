"""`bitmar export`, `unpack` and `info`: from a run or a checkpoint to a `.bitmar` file and back; what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import MAKE, USE, command
from bitmar.cli.common import Json
from bitmar.console import console, megabytes, write_json


@command(
    "bitmar export runs/default out/model.bitmar",
    "bitmar export runs/default/joint out/model.bitmar",
    "bitmar export runs/mine out/model.bitmar --tower tower.bitmar",
    panel=MAKE,
)
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A checkpoint folder, or a run with a finished stage.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.bitmar", help="The file to write.", show_default=False)],
    tower: Annotated[
        Path | None,
        typer.Option(
            "--tower",
            metavar="TOWER.bitmar",
            help="Vision tower to include, for a model trained on its features.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Pack a checkpoint into one .bitmar file: ternary weights at two bits, the embedding at eight."""
    from bitmar.export import export_checkpoint
    from bitmar.inspect import summarize
    from bitmar.train.runs import is_run, last_model, run_card

    card = run_card(checkpoint) if is_run(checkpoint) else None
    folder = last_model(checkpoint) if is_run(checkpoint) else checkpoint
    out = out / "model.bitmar" if out.is_dir() else out
    out.parent.mkdir(parents=True, exist_ok=True)
    about = summarize(export_checkpoint(folder, out, card=card, tower=tower))
    if as_json:
        write_json(about)
    else:
        typer.echo(f"{out}: {megabytes(about['bytes'])}, {about['parameters']:,} parameters, from {folder}")


@command("bitmar unpack model.bitmar out/model", panel=MAKE)
def unpack(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="A .bitmar file.", show_default=False)],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where to write the checkpoint.", show_default=False)
    ],
) -> None:
    """Turn a .bitmar file back into a checkpoint, to fine-tune it or to load it in transformers; print its folder."""
    from bitmar.unpack import unpack as to_checkpoint

    typer.echo(to_checkpoint(model, folder))


@command("bitmar info", "bitmar info model.bitmar --json", "bitmar info runs/default", panel=USE)
def info(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|FOLDER", help="A .bitmar file, a checkpoint or a run. Default: the bundled model."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what a model is made of: sizes by part, bits per weight, zeros, tokenizer, training data, licence."""
    from bitmar.inspect import summarize

    about = summarize(source)
    if as_json:
        write_json(about)
    else:
        _print(about)


def _print(about: dict[str, Any]) -> None:
    from rich.table import Table

    to = console()
    to.print(f"{about['path']}: {about['kind']}", markup=False, soft_wrap=True)
    for stage in about.get("stages", ()):
        state = "finished" if stage["finished"] else "not finished"
        loss = f", loss {stage['loss']:.4g}" if stage["loss"] is not None else ""
        to.print(f"  {stage['name']}: {state}, step {stage['step']}{loss}", markup=False, soft_wrap=True)
    if "stages" in about:
        if about["model"]:
            to.print()
            _print(about["model"])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part", overflow="fold")
    for column in ("parameters", "size", "bits/weight", "zeros"):
        table.add_column(column, justify="right", overflow="fold")
    for name, part in [*about["parts"].items(), ("in all", about)]:
        weights, zeros = part["parameters"], part["zero_fraction"]
        counted = (f"{weights:,}", f"{part['bits_per_weight']:.2f}") if weights else ("", "")
        share = "" if zeros is None else f"{zeros:.1%}"
        table.add_row(name, counted[0], megabytes(part["bytes"]), counted[1], share)
    to.print(table)
    if "layers" in about:
        layers = about["layers"] if isinstance(about["layers"], int) else len(about["layers"])
        products = about["multiplications"]
        cost = f", {products / 1e6:,.0f} million products a photo" if products else ""
        to.print(f"{layers} layers, weights {about['weights']}{cost}")
    if about["tokenizer"]:
        to.print(f"tokenizer: {about['tokenizer']['entries']:,} entries")
    for name in ("checksum", "vision", "licence", "training_data"):
        value = about.get(name)
        shown = ", ".join(map(str, value)) if isinstance(value, list) else "not stated" if value is None else value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {entry}" for key, entry in value.items())
        to.print(f"{name.replace('_', ' ')}: {shown}", markup=False, soft_wrap=True)
    for name, value in about["card"].items():
        if name not in ("licence", "training_data"):
            to.print(f"{name}: {value}", markup=False, soft_wrap=True)
