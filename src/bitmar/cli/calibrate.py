"""`bitmar calibrate`: confidence of recall from the first episode on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitmar.cli.app import MAKE, SKIPPED, command
from bitmar.console import Skipped, megabytes, progress, say
from bitmar.core.errors import ImageError

if TYPE_CHECKING:
    from bitmar.core.ternary import F32


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
    """Show a model photos, so that it learns how much strangers resemble each other, and keep that in its file.

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
