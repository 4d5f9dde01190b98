"""`bitmar tower import`: another project's pretrained backbone as a tower file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from bitmar.cli.app import MAKE, SKIPPED, command, make_group
from bitmar.cli.common import Json, needs
from bitmar.console import Skipped, megabytes, progress, say, write_json

towers = make_group(
    "tower",
    "Pretrained backbones as vision towers for the engine.",
    "bitmar tower import mobilenet.tflite tower.bitmar",
    "bitmar info tower.bitmar",
    panel=MAKE,
)


@command(
    "bitmar tower import mobilenet.tflite tower.bitmar",
    "bitmar tower import efficientnet-lite:2 lite2.bitmar --calibrate 'flickr8k-train-*.tar'",
    "bitmar tower import mobilenet.tflite+efficientnet-lite:2 pair.bitmar --calibrate train.tar",
    "bitmar tower import dinov2-small/model.safetensors dinov2.bitmar",
    group=towers,
    name="import",
)
def import_tower(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A .tflite classifier, efficientnet-lite:0 to 4, a state dict of one or of a vision transformer "
            "such as DINOv2 (.safetensors, .pth), or two convolution nets as FIRST+SECOND.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.bitmar", help="The file to write.", show_default=False)],
    weights: Annotated[
        str, typer.Option("--weights", help="How to store the weights: int8, int6, int4 or digits (ternary).")
    ] = "int8",
    size: Annotated[
        int | None, typer.Option("--size", help="Pixels per side, where the source leaves it open. Default: 224.")
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option("--calibrate", metavar="SHARDS", help="Photos to calibrate the quantisation of float weights on."),
    ] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Licence of the weights, for the card.")] = None,
    as_json: Json = False,
) -> None:
    """Convert a pretrained backbone into one file: norms folded, weights and activations as integers."""
    from bitmar.backbone import import_backbone
    from bitmar.inspect import summarize

    with needs("vision"), progress() as bar:
        skipped = Skipped(bar)
        photos = None if calibrate is None else lambda side: _photos(calibrate, side, skipped, bar)
        import_backbone(source, out, weights=weights, size=size, photos=photos, licence=licence)
    about = summarize(out)
    if as_json:
        write_json({**about, "skipped": skipped.as_list()})
    else:
        grid, dim = about["vision"]["grid"], about["vision"]["features"]
        typer.echo(
            f"{out}: {megabytes(about['bytes'])}, {grid}x{grid} patches of {dim}, weights {weights}, from {source}"
        )
    if skipped.reasons:
        say(str(skipped))
        raise typer.Exit(SKIPPED)


def _photos(shards: list[str], side: int, skipped: Skipped, bar: Any) -> Iterator[Any]:
    """The first photos of the shards, square."""
    from bitmar.backbone.ranges import PHOTOS
    from bitmar.core.errors import ImageError
    from bitmar.core.image import load_photo, to_square
    from bitmar.data.sources import iter_webdataset

    task = bar.add_task("photos", total=PHOTOS)
    for sample in islice(iter_webdataset(shards, skipped), PHOTOS):
        try:
            yield to_square(load_photo(sample.image), side)
        except ImageError as error:
            skipped(sample.key, str(error))
        bar.advance(task)
