"""What more cores bring to `bitmar caption`: photos a second with one worker and with one for each core.

python benchmarks/workers.py --photos 500 --json out/workers.json
"""

from __future__ import annotations

import io
import os
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated

import typer
from _machine import SHARED, publish, run, skip_without_shared_data
from PIL import Image

from bitmar import BitMar, load
from bitmar.cli.caption import caption_photos
from bitmar.cli.threads import cores
from bitmar.console import say
from bitmar.data.sources import iter_webdataset

DATA = str(SHARED / "captions" / "flickr8k-val-*.tar")
SIZE = (640, 480)
ROUNDS = 3  # of which the fastest counts, for each number of workers


def main(
    model: Annotated[str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled.")] = None,
    data: Annotated[str, typer.Option(help="WebDataset shards: a path, glob, braces or URL.")] = DATA,
    photos: Annotated[int, typer.Option(min=2, help="How many.")] = 500,
    workers: Annotated[int | None, typer.Option(min=2, help="Default: one per core, two at least.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Caption the same photos, files of 640 x 480 pixels, with one worker and with several."""
    skip_without_shared_data(data)
    loaded, many = load(model), workers or max(cores(), 2)
    with TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), data, photos)
        seconds = {1: list[float](), many: list[float]()}
        for _ in range(ROUNDS):
            for at_a_time, taken in seconds.items():
                taken.append(time_of(loaded, paths, at_a_time))
                say(f"{at_a_time} at a time: {len(paths) / taken[-1]:.1f} photos a second")
    rates = {count: len(paths) / min(taken) for count, taken in seconds.items()}
    figures = {
        "photos": len(paths),
        "workers": many,
        "photos a second, 1 worker": rates[1],
        f"photos a second, {many} workers": rates[many],
        "times as many": rates[many] / rates[1],
    }
    publish("workers", figures, data=f"{data}, as JPEG of {SIZE[0]} x {SIZE[1]}", out=json)


def write_photos(folder: Path, data: str, count: int) -> list[str]:
    paths = []
    for i, sample in enumerate(islice(iter_webdataset(data), count)):
        paths.append(os.path.join(folder, f"{i:05}.jpg"))
        Image.open(io.BytesIO(sample.image)).convert("RGB").resize(SIZE).save(paths[-1], quality=90)
    return paths


def time_of(model: BitMar, paths: list[str], at_a_time: int) -> float:
    """Seconds for all photos, in a warm process."""
    start = perf_counter()
    for result in caption_photos(model, paths, workers=at_a_time):
        assert "error" not in result
    return perf_counter() - start


if __name__ == "__main__":
    run(main)
