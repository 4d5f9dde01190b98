"""What the session memory recalls: photos by other views, photos by another person's caption, the newest of many; what
it says of photos that it never saw, also of other kinds than it was calibrated on.

python benchmarks/recall.py --json out/recall.json
python benchmarks/recall.py --model runs/default --data 'mine-*.tar' --episodes 0
python benchmarks/recall.py --photos 59 --only-slots
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from _machine import SHARED, publish, run, skip_without_shared_data
from _many import ROUNDS, Shown, full
from PIL import Image, ImageEnhance, ImageOps

from bitmar.api import BitMar, load
from bitmar.console import progress
from bitmar.core.errors import DataError, ImageError
from bitmar.core.image import load_photo
from bitmar.data.augment import view_rng
from bitmar.data.sources import CaptionedPhoto, iter_webdataset
from bitmar.runtime.cache import ImageTokens
from bitmar.session.recall import KeySpace
from bitmar.session.recite import to_recite
from bitmar.session.session import Session

SIDES = {"80 % of the area": 0.8**0.5, "80 % of each side": 0.8}  # "an 80 % crop" can be read both ways
NEWEST = 256
SLOTS = [512, 4_096, 16_384, 65_536]
SIZES = (1, 8, 64, 512)  # episodes of a memory that is asked for names
MEMORIES, ASKED = 64, 20  # of each size, and strangers that each is shown
NAMED = 10  # photos of a memory whose names are asked for by all views
OTHERS = 60  # strangers of each other kind

OTHER_KINDS = [
    str(SHARED / f"photos/{kind}-train-00000.tar")
    for kind in ("caltech101", "grocery", "nips17", "osie", "sports100", "weather")
]
Make = Callable[[Image.Image, np.random.Generator], Image.Image]


def main(
    model: Annotated[
        str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled one.")
    ] = None,
    data: Annotated[str, typer.Option(help="WebDataset shards: a path, glob, braces or URL.")] = str(
        SHARED / "captions/flickr8k-val-*.tar"
    ),
    photos: Annotated[int, typer.Option(help="Photos to remember.")] = 512,
    episodes: Annotated[int, typer.Option(help="Episodes for the test of overwriting; 0 leaves it out.")] = 2_000,
    others: Annotated[
        list[str] | None, typer.Option(help="Shards of other kinds of photos, as strangers. Default: `OTHER_KINDS`.")
    ] = None,
    slots: Annotated[
        list[int] | None, typer.Option(help="Sizes of memories that are filled with made-up episodes.")
    ] = None,
    only_slots: Annotated[bool, typer.Option("--only-slots", help="Measure these memories and nothing else.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Remember photos with their first captions, then recall them."""
    skip_without_shared_data(data)
    others = OTHER_KINDS if others is None else others
    loaded = load(model)
    samples = [sample for sample in iter_webdataset(data) if len(sample.captions) > 1]
    if len(samples) < photos:
        raise DataError(f"{data} gives {len(samples)} photos with several captions, not {photos}: ask for fewer")
    if photos < 2 * ROUNDS:
        raise DataError(f"{photos} photos are too few to measure anything: ask for at least {2 * ROUNDS}")
    slots = slots or SLOTS
    if min(slots) < photos:
        raise DataError(f"{photos} photos do not fit into {min(slots)} slots: ask for fewer, or for larger memories")
    if only_slots:
        figures: dict[str, Any] = {"model": str(loaded.path), "engine": loaded.engine.name, "photos": photos}
        figures["slots"] = by_slots(loaded, samples[:photos], slots)
        publish("recall", figures, data=f"{photos} photos of {data}", out=json)
        return
    memory = loaded.memory()
    with progress() as bar:
        opened = [load_photo(sample.image) for sample in samples]
        shown = [Shown.of(memory, photo) for photo in bar.track(opened[:photos], description="photos")]
        strangers = [loaded.encode_image(photo) for photo in bar.track(opened[photos:], description="strangers")]
        seen_again = {
            name: [
                loaded.encode_image(make(opened[i], view_rng(0, samples[i].key, 0)))
                for i in bar.track(range(photos), description=name)
            ]
            for name, make in views().items()
        }
    images = [one.image for one in shown]
    figures = {"model": str(loaded.path), "engine": loaded.engine.name, "photos": photos}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recall.mem"
        session = loaded.memory(path)
        start = perf_counter()
        for sample, photo in zip(samples[:photos], opened, strict=False):
            session.remember(sample.captions[0], photo)
        figures["remember, ms, encoded in four turns and to the disk"] = 1e3 * (perf_counter() - start) / photos
        figures["by another view"] = {name: by_view(session, again) for name, again in seen_again.items()}
        figures["names"] = named(loaded, shown, seen_again)
        if strangers:
            figures["photos never shown"] = by_stranger(session, strangers)
            figures["recited"] = {
                f"memories of {size}": recited(loaded, size, shown, next(iter(seen_again.values())), strangers)
                for size in SIZES
                if size <= photos
            }
        if others:
            figures["strangers of other kinds"] = by_other_kinds(loaded, shown, others)
        figures["by another caption"] = by_caption(session, samples[:photos])
        figures["file, bytes"] = path.stat().st_size
        session.close()
        figures["open, ms"] = median(1e3 * timed(lambda: loaded.memory(path)) for _ in range(9))
    figures["key stored as"] = by_storage(loaded, images, next(iter(seen_again.values())))
    if episodes:
        figures[f"{episodes} episodes"] = overwriting(loaded, opened, episodes)
    figures["slots"] = by_slots(loaded, samples[:photos], slots)
    publish("recall", figures, data=f"{photos} of {len(samples)} photos of {data}", out=json)


def by_slots(model: BitMar, samples: list[CaptionedPhoto], slots: list[int]) -> dict[str, Any]:
    """Full memories of these numbers of slots: made-up episodes, and the photos, each met again in the first view."""
    memory, make = model.memory(), next(iter(views().values()))
    shown, again = [], []
    with progress() as bar:
        for sample in bar.track(samples, description="photos"):
            photo = load_photo(sample.image)
            shown.append(Shown.of(memory, photo))
            again.append(model.encode_image(make(photo, view_rng(0, sample.key, 0))))
    captions = [sample.captions[0] for sample in samples]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "many.mem"
        return {f"{count:,}": full(model, path, count, shown, captions, again) for count in slots}


def views() -> dict[str, Make]:
    """Ways to meet a photo again; the first two as in earlier measurements."""

    def cropped(side: float, *, copy: bool = False) -> Make:
        def make(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
            width, height = round(photo.width * side), round(photo.height * side)
            left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
            crop = photo.crop((left, top, left + width, top + height))
            return jpeg(ImageOps.mirror(crop)) if copy else crop

        return make

    def bright(factor: float) -> Make:
        return lambda photo, rng: ImageEnhance.Brightness(photo).enhance(factor)

    return {
        **{name: cropped(side, copy=True) for name, side in SIDES.items()},
        "as it was": lambda photo, rng: photo,
        "crop, 80 % of each side": cropped(0.8),
        "crop, 60 % of each side": cropped(0.6),
        "turned by 10 degrees": lambda photo, rng: photo.rotate(10),
        "turned by 90 degrees": lambda photo, rng: photo.rotate(90, expand=True),
        "grey": lambda photo, rng: photo.convert("L").convert("RGB"),
        "dark, x 0.5": bright(0.5),
        "bright, x 1.5": bright(1.5),
        "small, a quarter of each side": lambda photo, rng: photo.resize((photo.width // 4, photo.height // 4)),
        "mirrored": lambda photo, rng: ImageOps.mirror(photo),
        "JPEG of quality 20": lambda photo, rng: jpeg(photo, 20),
    }


def jpeg(photo: Image.Image, quality: int = 50) -> Image.Image:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return Image.open(file)


def named(model: BitMar, shown: list[Shown], again: dict[str, list[ImageTokens]]) -> dict[str, Any]:
    """Memories of a few photos, each met again in every view: whether its caption is what was remembered."""
    right, said, wrong = [], [], []
    by: dict[str, list[bool]] = {name: [] for name in again}
    for first in range(0, len(shown) - NAMED + 1, NAMED):
        session = model.memory()
        slots = {shown[i].keep(session, f"number {i}"): i for i in range(first, first + NAMED)}
        for name, images in again.items():
            for i in range(first, first + NAMED):
                (found,) = session.recall(image=images[i])
                right.append(slots[found.episode.slot] == i)
                words = to_recite(found)
                said.append(bool(words) and right[-1])
                wrong.append(bool(words) and not right[-1])
                by[name].append(words == f"number {i}")
    return {
        "photos of a memory": NAMED,
        "views": len(right),
        "recall@1": share(right),
        "named where recall is right": sum(said) / sum(right),
        "a wrong name": share(wrong),
        "named by view": {name: share(hits) for name, hits in by.items()},
    }


def by_other_kinds(model: BitMar, shown: list[Shown], others: list[str]) -> dict[str, Any]:
    """Photos of other kinds, shown to memories of a few: the share that is recited."""
    memories = []
    for first in range(0, min(len(shown), 16 * NAMED) - NAMED + 1, NAMED):
        memories.append(session := model.memory())
        for i in range(first, first + NAMED):
            shown[i].keep(session, f"number {i}")
    found: dict[str, list[bool]] = {}
    for name, photos in {**{Path(one).stem: from_shards(one) for one in others}, "made up": made_up()}.items():
        for photo in photos:
            try:
                image = model.encode_image(photo)
            except ImageError:
                continue
            said = [bool(to_recite(session.recall(image=image)[0])) for session in memories]
            found.setdefault(name, []).extend(said)
    together = [one for said in found.values() for one in said]
    return {
        "memories": len(memories),
        "photos": len(together) // len(memories),
        "recited": share(together),
        "by kind": {name: share(said) for name, said in found.items()},
    }


def from_shards(pattern: str) -> Iterator[Image.Image]:
    for sample in islice(iter_webdataset(pattern), OTHERS):
        yield load_photo(sample.image)


def made_up() -> Iterator[Image.Image]:
    """Noise, smooth colours, gradients, and the photos that scikit-image brings, where it is installed."""
    rng = np.random.default_rng(0)
    for i in range(20):
        yield Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8))
        yield Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((400, 300))
        ramp = np.tile(np.linspace(0, 255, 300, dtype=np.uint8)[:, None], (1, 400))
        yield Image.fromarray(ramp).rotate(18 * i).convert("RGB")
    if (found := find_spec("skimage")) is not None and found.origin:
        for path in sorted((Path(found.origin).parent / "data").glob("*.[pj][np]g")):
            yield load_photo(path)


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
    model: BitMar, size: int, shown: list[Shown], views: list[ImageTokens], strangers: list[ImageTokens]
) -> dict[str, float]:
    """Whether the caption of another view would begin with what was remembered, and that of a stranger with nothing."""
    right, wrong, invented = [], [], []
    rng = np.random.default_rng(size)
    for first in range(0, min(len(shown), size * MEMORIES) - size + 1, size):
        session = model.memory()
        for i in range(first, first + size):
            shown[i].keep(session, f"number {i}")
        for i in range(first, first + size):
            said = to_recite(session.recall(image=views[i])[0])
            right.append(said == f"number {i}")
            wrong.append(bool(said) and not right[-1])
        asked = len(strangers) if size == len(shown) else min(ASKED, len(strangers))
        asked_of = rng.choice(len(strangers), asked, replace=False)
        invented += [bool(to_recite(session.recall(image=strangers[i])[0])) for i in asked_of]
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


def by_storage(model: BitMar, images: list[ImageTokens], views: list[ImageTokens]) -> dict[str, float]:
    """Recall@1 by the first view, had the keys been stored otherwise."""
    recognizer = model.memory()._recognizer
    keys = np.stack([recognizer.key(image) for image in images])
    scale = np.abs(keys).max(axis=1, keepdims=True) / 127
    stored = {
        "float32": keys,
        "float16": keys.astype(np.float16).astype(np.float32),
        "int8": (np.rint(keys / scale) * scale).astype(np.float32),
    }
    asked = np.stack([recognizer.key(image) for image in views])
    if recognizer.turns > 1:
        best = {name: asked @ kept.T for name, kept in stored.items()}
    else:
        best = {name: (space := KeySpace(kept)).enter(asked) @ space.keys.T for name, kept in stored.items()}
    return {name: share((scores.argmax(axis=1) == np.arange(len(keys))).tolist()) for name, scores in best.items()}


def overwriting(model: BitMar, photos: list[Image.Image], episodes: int) -> dict[str, Any]:
    """Photos, then their mirror images, upside down and so on, into one memory; then the newest by another view."""
    session = model.memory()
    slots = session.file.shape.slots
    make, newest = next(iter(views().values())), list[tuple[int, Image.Image]]()
    with progress() as bar:
        for i in bar.track(range(episodes), description="episodes"):
            photo = photos[i % len(photos)]
            for change in range(3):
                if i // len(photos) >> change & 1:
                    photo = (ImageOps.mirror, ImageOps.flip, ImageOps.invert)[change](photo)
            image = model.encode_image(photo)
            newest.append((session.remember(f"number {i}", image).slot, photo))
    newest = newest[-min(NEWEST, slots) :]
    rng = np.random.default_rng(0)
    found = [session.recall(image=model.encode_image(make(photo, rng)))[0].episode.slot for _, photo in newest]
    return {
        "slots": slots,
        "photos": len(photos),
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
