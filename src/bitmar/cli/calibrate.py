"""`bitmar calibrate` and `calibrate-captions`: confidence of recall from the first episode on, and of captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import MAKE, SKIPPED, command
from bitmar.cli.common import needs
from bitmar.console import Skipped, megabytes, progress, say
from bitmar.core.errors import ImageError

if TYPE_CHECKING:
    from bitmar import BitMar
    from bitmar.core.ternary import F32
    from bitmar.data.sources import CaptionedPhoto
    from bitmar.runtime.cache import ImageTokens

Captions = Annotated[
    list[str],
    typer.Option(
        "--data", metavar="SHARDS", help="WebDataset shards with captions: paths, globs, braces, URLs. Can be repeated."
    ),
]


@command("bitmar calibrate model.bitmar out/sure.bitmar --data 'flickr8k-train-*.tar'", panel=MAKE, shards=True)
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .bitmar file, or a folder with one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.bitmar", help="The file to write.", show_default=False)],
    data: Annotated[
        list[str],
        typer.Option(
            "--data", metavar="SHARDS", help="WebDataset shards: paths, globs, braces, URLs.", show_default=False
        ),
    ],
    photos: Annotated[int | None, typer.Option("--photos", help="Use at most N photos.")] = None,
) -> None:
    """Calibrate recall: measure how much unrelated photos resemble each other, and store that in the file.

    Without it a memory needs eight episodes before recall knows how sure it is, and captions recite nothing until then.
    The photos should be as different as those that the model will meet, none of them twice: name shards of several
    kinds, of which it takes equally many. `bitmar train` does this by itself.
    """
    from bitmar import load
    from bitmar.core.image import load_photo
    from bitmar.data.augment import view_rng
    from bitmar.data.sources import iter_webdataset
    from bitmar.session.calibrate import ENOUGH, background, pooled_views, with_background

    loaded = load(model)
    if loaded.engine.tower is None:
        raise ImageError("this model has no vision tower: `bitmar train` calibrates it with the features it trains on")
    with progress() as bar:
        skipped, total = Skipped(bar), photos or ENOUGH
        share = -(-total // len(data))  # of each, so that no kind of photo is left out
        samples = (sample for shards in data for sample in islice(iter_webdataset([shards], skipped), share))

        def seen() -> Iterator[F32]:
            for sample in bar.track(samples, total=total, description="photos"):
                try:
                    yield pooled_views(loaded, load_photo(sample.image), view_rng(0, sample.key, 0))
                except ImageError as error:
                    skipped(sample.key, str(error))

        known = background(seen())
    with_background(loaded.container, known, out)
    say(f"{out}: {megabytes(out.stat().st_size)}; {skipped}")
    if skipped.reasons:
        raise typer.Exit(SKIPPED)


@command(
    "bitmar calibrate-captions model.bitmar out/sure.bitmar --data 'val-*.tar' --labels 'photos/*.tar'", panel=MAKE
)
def calibrate_captions(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A .bitmar file, or a folder with one.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.bitmar", help="The file to write.", show_default=False)],
    data: Captions,
    labels: Annotated[
        list[str], typer.Option("--labels", metavar="SHARDS", help="Labelled photos, of as many kinds as possible.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=2, help="Use at most N photos of each pattern.")] = 1000,
) -> None:
    """Calibrate the confidence of captions, and store that in the model's file.

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
