"""`bitmar eval naming` and `bitmar calibrate-captions`: captions of photos whose labels are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import MAKE, SKIPPED, command
from bitmar.cli.common import Model, needs
from bitmar.cli.eval_options import JsonFile, Limit, Shards, evaluate, name_skipped, publish
from bitmar.console import Skipped, megabytes, progress, say
from bitmar.core.errors import ImageError

if TYPE_CHECKING:
    from bitmar import BitMar
    from bitmar.data.sources import CaptionedPhoto
    from bitmar.runtime.cache import ImageTokens

_SHOWN = ("10%", "30%", "50%", "100%")


@command(
    "bitmar eval naming --data 'caltech101-*.tar'",
    "bitmar eval naming --data 'photos/*.tar' --json out/naming.json",
    group=evaluate,
    name="naming",
)
def eval_naming(data: Shards, model: Model = None, limit: Limit = None, json_file: JsonFile = None) -> None:
    """Caption labelled photos: does the caption name what the label says, and does its confidence know?

    The label is the key `label` of a sample's .json.
    """
    from bitmar import load
    from bitmar.evaluate.figure import plain
    from bitmar.evaluate.tasks.naming import evaluate_naming

    loaded = load(model)
    captions, labels, chances = [], [], []
    with needs("data"), progress() as bar:
        skipped = Skipped(bar)
        for sample, image in bar.track(_seen(loaded, data, limit, skipped), description="photos"):
            caption = loaded.caption(image)
            captions.append(str(caption))
            labels.append(str(sample.meta.get("label") or ""))
            chances.append(caption.confidence)
    report = evaluate_naming(captions, labels, chances)
    document = {
        "command": "eval naming",
        "model": str(loaded.path),
        "data": list(data),
        **plain(report),
        "skipped": skipped.as_list(),
    }
    rows = [[label, f"{100 * named / photos:.0f}", str(photos)] for label, (named, photos) in report.by_label.items()]
    low, high = 100 * report.named.low, 100 * report.named.high
    rows.append(["mean over labels", f"{100 * report.named.value:.1f} ({low:.0f} to {high:.0f})", str(report.photos)])
    if report.calibration_error is not None and report.by_coverage is not None:
        rows.append(["calibration error", f"{report.calibration_error:.3f}", str(report.photos)])
        rows += [[f"the surest {share}", f"{100 * report.by_coverage[share]:.1f}", ""] for share in _SHOWN]
    publish(document, rows, ("label", "named, %", "photos"), json_file)
    if report.unknown:
        say(f"left out {sum(report.unknown.values())} photos whose labels have no noun: {', '.join(report.unknown)}")
    name_skipped(skipped)
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


@command(
    "bitmar calibrate-captions model.bitmar out/sure.bitmar --data 'val-*.tar' --labels 'photos/*.tar'", panel=MAKE
)
def calibrate_captions(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .bitmar file, or a folder with one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.bitmar", help="The file to write.", show_default=False)],
    data: Shards,
    labels: Annotated[
        list[str], typer.Option("--labels", metavar="SHARDS", help="Labelled photos, of as many kinds as can be had.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=2, help="Photos of each pattern, at most.")] = 1000,
) -> None:
    """Teach a model how far its captions can be trusted, and keep that in its file.

    It captions photos whose captions (--data) or labels (--labels) are known, and learns from what it got right. They
    should not be those that it was trained on. Pictures of nothing (noise, plain colours, text) teach it to doubt.
    """
    from bitmar import load
    from bitmar.core.container import with_tensors
    from bitmar.core.tensors import CONFIDENCE
    from bitmar.evaluate.confidence import Lessons, witness_of
    from bitmar.evaluate.nothing import nothing

    loaded, lessons = load(model), Lessons()
    witness_of(loaded)
    with needs("data"), progress() as bar:
        skipped = Skipped(bar)
        for pattern, labelled in [*((p, False) for p in data), *((p, True) for p in labels)]:
            for sample, image in bar.track(_seen(loaded, [pattern], limit, skipped), description=Path(pattern).name):
                if labelled:
                    lessons.of_label(loaded, image, str(sample.meta.get("label") or ""))
                else:
                    lessons.of_captions(loaded, image, sample.captions)
    known, right = len(lessons.right), sum(lessons.right)
    for picture in nothing():
        lessons.of_nothing(loaded, loaded.encode_image(picture))
    with_tensors(loaded.container, {CONFIDENCE: lessons.weights()}, out)
    share = f"{right / known:.1%} right" if known else "none known"
    say(f"{out}: {megabytes(out.stat().st_size)}; {known} photos, {share}; {skipped}")
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


def _seen(
    model: BitMar, patterns: Sequence[str], limit: int | None, skipped: Skipped
) -> Iterator[tuple[CaptionedPhoto, ImageTokens]]:
    """The photos of shards as the model sees them; broken ones are named and left out."""
    from bitmar.data.sources import iter_webdataset

    for number, sample in enumerate(iter_webdataset(patterns, skipped)):
        if limit is not None and number >= limit:
            return
        try:
            yield sample, model.encode_image(sample.image)
        except ImageError as error:
            skipped(sample.key, str(error))
