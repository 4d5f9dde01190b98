"""A pretrained backbone at fewer bits: size of the file, likeness of the features to the original's, time, captions.

python benchmarks/towers.py --json out/towers.json
python benchmarks/towers.py --source efficientnet-lite:2 --original efficientnet-lite:2
python benchmarks/towers.py --checkpoint runs/mine --captions 'flickr8k-val-*.tar'
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from _machine import SHARED, publish, run, skip_without_shared_data

from bitmar.backbone import import_backbone
from bitmar.core.conv_config import WEIGHTS
from bitmar.core.image import load_photo, to_square
from bitmar.core.tower_file import open_tower
from bitmar.data.sources import iter_webdataset
from bitmar.data.towers import load_tower
from bitmar.evaluate.scorer import load_scorer
from bitmar.evaluate.tasks.captions import evaluate_captions
from bitmar.export import export_checkpoint
from bitmar.runtime.tower import imported_tower

TFLITE = str(SHARED / "vision_teacher" / "mobilenet_edgetpu_224_1.0_uint8.tflite")
PHOTOS = str(SHARED / "captions" / "coco-val-00000.tar")
CALIBRATION = str(SHARED / "captions" / "flickr8k-train-00000.tar")
CALLS = 50  # of which the fastest counts: others may use the machine


def main(
    source: Annotated[str, typer.Option(help="What `bitmar tower import` reads.")] = TFLITE,
    original: Annotated[str | None, typer.Option(help="The tower it came from. Default: litert:SOURCE.")] = None,
    data: Annotated[str, typer.Option(help="Shards of the photos that features are compared on.")] = PHOTOS,
    photos: Annotated[int, typer.Option(help="Of these photos.")] = 40,
    calibrate: Annotated[str, typer.Option(help="Shards that a network of floats is calibrated on.")] = CALIBRATION,
    checkpoint: Annotated[Path | None, typer.Option(help="Trained on the original's features: also captions.")] = None,
    captions: Annotated[str, typer.Option(help="Shards to caption.")] = str(SHARED / "captions" / "flickr8k-val-*.tar"),
    limit: Annotated[int, typer.Option(help="Photos to caption.")] = 200,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Import the backbone with each kind of weights and compare."""
    skip_without_shared_data(data)
    theirs = load_tower(original or f"litert:{source}")
    squares = np.stack(list(_squares(data, theirs.size, photos)))
    expected = theirs(squares)
    figures: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        for weights in WEIGHTS:
            path = Path(folder) / f"{weights}.bitmar"
            import_backbone(source, path, weights=weights, photos=lambda side: _squares(calibrate, side, 64))
            file = open_tower(path)
            tower = imported_tower(file.config, file.tensors)
            seen = np.stack([tower(photo) for photo in squares])
            figures[weights] = {
                "megabytes": path.stat().st_size / 1e6,
                "cosine": {
                    "patch": _cosine(seen, expected),
                    "map": _cosine(seen.reshape(photos, -1), expected.reshape(photos, -1)),
                    "mean": _cosine(seen.mean(axis=1), expected.mean(axis=1)),
                },
                "milliseconds": _milliseconds(tower, squares[0]),
            }
            if checkpoint is not None:
                scorer = load_scorer(
                    str(export_checkpoint(checkpoint, Path(folder) / "m.bitmar", tower=path)), "runtime"
                )
                found = evaluate_captions(scorer, captions, limit=limit, grounding=0, java=False)
                figures[weights]["cider"] = found.captions.cider.to_dict()
    publish("towers", figures, data=f"{source}; {photos} photos of {data}", out=json)


def _squares(shards: str, side: int, count: int) -> Iterator[np.ndarray]:
    for sample in islice(iter_webdataset(shards), count):
        yield to_square(load_photo(sample.image), side)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over all vectors of the last axis that are not 0 in both."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(axis=-1) / np.maximum(lengths, 1e-9))[lengths > 0].mean())


def _milliseconds(tower: Any, photo: np.ndarray) -> float:
    times = []
    for _ in range(CALLS):
        start = perf_counter()
        tower(photo)
        times.append(perf_counter() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    run(main)
