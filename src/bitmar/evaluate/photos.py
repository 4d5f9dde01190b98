"""Photos of WebDataset shards as a model is shown them: decoded, seen, taken again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bitmar.core.errors import ImageError
from bitmar.core.image import PhotoSource, load_photo
from bitmar.data.features import FeatureStore
from bitmar.data.sources import CaptionedPhoto, OnBad, iter_webdataset
from bitmar.evaluate.protocol import Picture, PictureScorer
from bitmar.evaluate.work import Work


def read_pictures(
    patterns: str | Sequence[str],
    *,
    features: Path | None = None,
    limit: int | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[tuple[CaptionedPhoto, Picture]]:
    """The photos of WebDataset shards as a model takes them: decoded, or as the patch features that a folder has.

    limit: of samples read. A sample that cannot be used goes to `on_bad` and is skipped.
    """
    report = on_bad or (lambda name, reason: None)
    store = None if features is None else FeatureStore(features)
    for sample in islice(iter_webdataset(patterns, report), limit):
        try:
            yield sample, picture_of(sample, store)
        except ImageError as error:
            report(sample.key, str(error))


def picture_of(sample: CaptionedPhoto, features: FeatureStore | None) -> Picture:
    """A photo as a model takes it. ImageError where it cannot be read, or has no good features in the store."""
    if features is None:
        return load_photo(sample.image)
    row = features.row_of(sample)
    if row is None:
        raise ImageError(f"{features.folder} has no features of this photo")
    values = features.features(row)
    if not np.isfinite(values).all():
        raise ImageError(f"its features in {features.folder} are not finite: extract them again")
    return values


def look_at_all(
    model: PictureScorer, patterns: str | Sequence[str], work: Work, features: Path | None = None
) -> tuple[list[Picture], list[tuple[str, ...]]]:
    """Every photo of `read_pictures` as the model sees it, and its captions."""
    pictures: list[Picture] = []
    captions: list[tuple[str, ...]] = []
    progress = work.progress("photos", work.limit)
    for sample, picture in read_pictures(patterns, features=features, limit=work.limit, on_bad=work.on_bad):
        pictures += model.look([picture])
        captions.append(sample.captions)
        progress(len(pictures))
    return pictures, captions


def readable_photos(
    patterns: Sequence[str], limit: int | None, on_bad: OnBad | None = None, *, captioned: bool = True
) -> list[tuple[CaptionedPhoto, Image.Image]]:
    """The first photos of shards, decoded; `captioned`: those with a caption alone. Broken ones go to `on_bad`."""
    report = on_bad or (lambda name, reason: None)

    def photos() -> Iterator[tuple[CaptionedPhoto, Image.Image]]:
        for sample in iter_webdataset(list(patterns), report):
            if captioned and not sample.captions:
                continue
            try:
                yield sample, load_photo(sample.image)
            except ImageError as error:
                report(sample.key, str(error))

    return list(islice(photos(), limit))


def another_view(photo: PhotoSource, rng: np.random.Generator, area: float = 0.8) -> Image.Image:
    """The photo taken again: a random crop of `area`, mirrored, as a JPEG of quality 50."""
    whole = load_photo(photo)
    width, height = (max(1, round(side * area**0.5)) for side in whole.size)
    left, top = rng.integers(whole.width - width + 1), rng.integers(whole.height - height + 1)
    crop = ImageOps.mirror(whole.crop((left, top, left + width, top + height)))
    file = io.BytesIO()
    crop.save(file, "JPEG", quality=50)
    return load_photo(file.getvalue())
