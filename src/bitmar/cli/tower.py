"""`bitmar tower import`: another project's pretrained backbone as a tower file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitmar.cli.app import MAKE, command, make_group
from bitmar.cli.common import Json, needs
from bitmar.console import megabytes, write_json

towers = make_group(
    "tower",
    "Pretrained backbones as vision towers for the engine.",
    "bitmar tower import mobilenet.tflite tower.bitmar",
    "bitmar info tower.bitmar",
    panel=MAKE,
)


@command("bitmar tower import mobilenet.tflite tower.bitmar", group=towers, name="import")
def import_tower(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A .tflite classifier.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT.bitmar", help="The file to write.", show_default=False)],
    weights: Annotated[
        str, typer.Option("--weights", help="How to store the weights: int8, int6, int4 or digits (ternary).")
    ] = "int8",
    licence: Annotated[str | None, typer.Option("--licence", help="Of the weights, for the file's card.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a pretrained backbone into one file: norms folded, weights and maps as integers."""
    from bitmar.backbone import import_backbone
    from bitmar.inspect import summarize

    with needs("vision"):
        import_backbone(source, out, weights=weights, licence=licence)
    about = summarize(out)
    if as_json:
        write_json(about)
    else:
        grid, dim = about["vision"]["grid"], about["vision"]["features"]
        typer.echo(
            f"{out}: {megabytes(about['bytes'])}, {len(about['layers'])} layers, {grid}x{grid} patches of {dim}, "
            f"weights {weights}, from {source}"
        )
