"""What the session memory recalls: photos by another view, photos by another person's caption, the newest of many.

python benchmarks/recall.py --json out/recall.json
python benchmarks/recall.py --model runs/default --data 'mine-*.tar' --episodes 0
"""

from __future__ import annotations

import io
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from _machine import SHARED, publish, run, skip_without_shared_data
from PIL import Image, ImageOps

from bitmar.console import progress
from bitmar.core.errors import DataError
from bitmar.core.image import load_photo
from bitmar.data.augment import view_rng
from bitmar.data.sources import CaptionedPhoto, iter_webdataset
from bitmar.runtime.api import BitMar, load
from bitmar.runtime.cache import ImageTokens
from bitmar.session.recall import KeySpace
from bitmar.session.recite import to_recite
from bitmar.session.session import Session, image_key

VIEWS = {"80 % of the area": 0.8**0.5, "80 % of each side": 0.8}  # "an 80 % crop" can be read both ways
NEWEST = 256
SIZES = (1, 8, 64, 512)  # episodes of a memory that is asked for names
MEMORIES, ASKED = 64, 20  # of each size, and strangers that each is shown


def main(
    model: Annotated[
        str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled one.")
    ] = None,
    data: Annotated[str, typer.Option(help="WebDataset shards: a path, glob, braces or URL.")] = str(
        SHARED / "captions/flickr8k-val-*.tar"
    ),
    photos: Annotated[int, typer.Option(help="Photos to remember.")] = 512,
    episodes: Annotated[int, typer.Option(help="Episodes for the test of overwriting; 0 leaves it out.")] = 10_000,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Remember photos with their first captions, then recall them."""
    skip_without_shared_data(data)
    loaded = load(model)
    samples = [sample for sample in iter_webdataset(data) if len(sample.captions) > 1]
    if len(samples) < photos:
        raise DataError(f"{data} gives {len(samples)} photos with several captions, not {photos}: ask for fewer")
    with progress() as bar:
        task = bar.add_task("photos", total=len(samples) if episodes else photos)
        images = []
        for sample in samples if episodes else samples[:photos]:
            images.append(loaded.encode_image(sample.image))
            bar.advance(task)
    figures: dict[str, Any] = {"model": str(loaded.path), "engine": loaded.engine.name, "photos": photos}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recall.mem"
        session = loaded.memory(path)
        start = perf_counter()
        for sample, image in zip(samples[:photos], images, strict=False):
            session.remember(sample.captions[0], image)
        figures["remember, ms, to the disk"] = 1e3 * (perf_counter() - start) / photos
        views = {name: [view(loaded, sample, side) for sample in samples[:photos]] for name, side in VIEWS.items()}
        figures["by another view"] = {name: by_view(session, shown) for name, shown in views.items()}
        if strangers := images[photos:]:
            figures["photos never shown"] = by_stranger(session, strangers)
            figures["recited"] = {
                f"memories of {size}": recited(loaded, size, images[:photos], next(iter(views.values())), strangers)
                for size in SIZES
                if size <= photos
            }
        figures["by another caption"] = by_caption(session, samples[:photos])
        figures["file, bytes"] = path.stat().st_size
        figures["open, ms"] = median(1e3 * timed(lambda: loaded.memory(path)) for _ in range(9))
    figures["key stored as"] = by_storage(images[:photos], next(iter(views.values())))
    if episodes:
        figures[f"{episodes} episodes"] = overwriting(loaded, samples, images, episodes)
    publish("recall", figures, data=f"{photos} of {len(samples)} photos of {data}", out=json)


def view(model: BitMar, sample: CaptionedPhoto, side: float) -> ImageTokens:
    """A random crop, mirrored, as a JPEG of quality 50."""
    photo, rng = load_photo(sample.image), view_rng(0, sample.key, 0)
    width, height = round(photo.width * side), round(photo.height * side)
    left, top = rng.integers(photo.width - width + 1), rng.integers(photo.height - height + 1)
    crop = ImageOps.mirror(photo.crop((left, top, left + width, top + height)))
    file = io.BytesIO()
    crop.save(file, "JPEG", quality=50)
    return model.encode_image(Image.open(file))


def by_view(session: Session, views: list[ImageTokens]) -> dict[str, Any]:
    """Photo i is in slot i."""
    found = [session.recall(image=image, k=10) for image in views]
    first = [one[0] for one in found]
    right = np.array([one.episode.slot == i for i, one in enumerate(first)])
    sure = np.array([(one.confidence or 0) >= 0.9 for one in first])
    return {
        "recall@1": float(right.mean()),
        "recall@10": share([any(one.episode.slot == i for one in ten) for i, ten in enumerate(found)]),
        "median score": median(one.score for one in first),
        "median margin": median(one.margin or 0.0 for one in first),
        "sure (confidence of 0.9)": float(sure.mean()),
        "recall@1 where sure": float(right[sure].mean()) if sure.any() else None,
    }


def by_stranger(session: Session, images: list[ImageTokens]) -> dict[str, Any]:
    """What recall says of a photo that it has not seen."""
    found = [session.recall(image=image)[0] for image in images]
    return {
        "photos": len(images),
        "median score": median(one.score for one in found),
        "wrongly sure (confidence of 0.9)": share([(one.confidence or 0) >= 0.9 for one in found]),
    }


def recited(
    model: BitMar, size: int, images: list[ImageTokens], views: list[ImageTokens], strangers: list[ImageTokens]
) -> dict[str, float]:
    """Whether the caption of another view would begin with what was remembered, and that of a stranger with nothing."""
    right, wrong, invented = [], [], []
    rng = np.random.default_rng(size)
    for first in range(0, min(len(images), size * MEMORIES) - size + 1, size):
        session = model.memory()
        for i in range(first, first + size):
            session.remember(f"number {i}", images[i])
        for i in range(first, first + size):
            said = to_recite(session.recall(image=views[i])[0])
            right.append(said == f"number {i}")
            wrong.append(bool(said) and not right[-1])
        asked = len(strangers) if size == len(images) else min(ASKED, len(strangers))
        shown = rng.choice(len(strangers), asked, replace=False)
        invented += [bool(to_recite(session.recall(image=strangers[i])[0])) for i in shown]
    return {"right": share(right), "wrong": share(wrong), "of a stranger": share(invented), "strangers": len(invented)}


def by_caption(session: Session, samples: list[CaptionedPhoto]) -> dict[str, Any]:
    """By every caption but the remembered one."""
    asked = [(i, caption) for i, sample in enumerate(samples) for caption in sample.captions[1:]]
    found = []
    seconds = []
    for _, caption in asked:
        start = perf_counter()
        found.append([one.episode.slot for one in session.recall(text=caption, k=10)])
        seconds.append(perf_counter() - start)
    return {
        "recall@1": share([slots[0] == i for (i, _), slots in zip(asked, found, strict=True)]),
        "recall@10": share([i in slots for (i, _), slots in zip(asked, found, strict=True)]),
        "chance@1": 1 / len(samples),
        "chance@10": min(1.0, 10 / len(samples)),
        "captions": len(asked),
        "ms": 1e3 * median(seconds),
    }


def by_storage(images: list[ImageTokens], views: list[ImageTokens]) -> dict[str, float]:
    """Recall@1 by the first view, had the keys been stored otherwise."""
    keys = np.stack([image_key(image) for image in images])
    scale = np.abs(keys).max(axis=1, keepdims=True) / 127
    stored = {
        "float32": keys,
        "float16": keys.astype(np.float16).astype(np.float32),
        "int8": (np.rint(keys / scale) * scale).astype(np.float32),
    }
    asked = np.stack([image_key(image) for image in views])
    best = {name: (space := KeySpace(kept)).enter(asked) @ space.keys.T for name, kept in stored.items()}
    return {name: share((scores.argmax(axis=1) == np.arange(len(keys))).tolist()) for name, scores in best.items()}


def overwriting(
    model: BitMar, samples: list[CaptionedPhoto], images: list[ImageTokens], episodes: int
) -> dict[str, Any]:
    """Photos and captions over and over into one memory, in RAM; then the newest by another view."""
    session = model.memory()
    slots = session.file.shape.slots
    newest: list[tuple[int, int]] = []
    with progress() as bar:
        for i in bar.track(range(episodes), description="episodes"):
            photo, round_ = i % len(samples), i // len(samples)
            captions = samples[photo].captions
            newest.append((session.remember(captions[round_ % len(captions)], images[photo]).slot, photo))
    newest = newest[-min(NEWEST, slots) :]
    side = next(iter(VIEWS.values()))
    found = [session.recall(image=view(model, samples[photo], side))[0].episode.slot for _, photo in newest]
    return {
        "slots": slots,
        "photos": len(samples),
        f"recall@1 of the newest {len(newest)}": share(
            [slot == where for (slot, _), where in zip(newest, found, strict=True)]
        ),
    }


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def timed(work: Any) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


if __name__ == "__main__":
    run(main)
