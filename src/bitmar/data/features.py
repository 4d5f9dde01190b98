"""Patch features, extracted once from a frozen tower and memory-mapped for training.

Layout of a folder: `store.json` (tower, fingerprint, sizes), `index.jsonl` (a line per sample: key, row,
captions, meta; a broken photo has row null and its error) and `features-00000.npy`, ..., each (rows, views,
N_p, D_v), uint8 where the tower has a scale and float16 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from bitmar.core.errors import ConfigError, DataError, ImageError
from bitmar.core.image import load_photo, to_square
from bitmar.data.augment import ViewRange, random_view, view_rng
from bitmar.data.photos import FORMAT, Entry, claim_folder, describe, read_card, read_entries, skip, unlogged
from bitmar.data.rowlog import RowLog, open_shards
from bitmar.data.sources import CaptionedPhoto, OnBad
from bitmar.data.towers import VisionTower

_ROWS_PER_SHARD = 1024
_BATCH = 32  # views in one call of the tower, at least


class FeatureStore:
    """The features of a folder that `extract_features` wrote. `store[i]` is the i-th photo's `Entry`.

    tower: the tower's name. fingerprint: its hash. views: stored views of each photo, the first without
    augmentation. grid, dim: N_p = grid^2 patches of D_v = dim. scale: factor of the stored uint8, or None
    for float16.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        card = read_card(self.folder, "features")
        self.tower: str = card["tower"]
        self.fingerprint: str = card["fingerprint"]
        self.views: int = card["views"]
        self.grid: int = card["grid"]
        self.dim: int = card["dim"]
        self.scale: float | None = card["scale"]
        self.rows_per_shard: int = card["rows_per_shard"]
        self.entries, self.skipped = read_entries(self.folder)
        self._rows: dict[str, int] | None = None  # by digest
        shape = (self.views, self.grid**2, self.dim)
        self._shards = open_shards(self.folder, "features", shape, _dtype(self.scale))
        if sum(map(len, self._shards)) < len(self.entries):
            raise DataError(f"{self.folder}: the index names more photos than are stored; extract it again")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Entry:
        return self.entries[i]

    def row_of(self, photo: CaptionedPhoto) -> int | None:
        """Which of its photos this one is, by the contents of its file and not by its name; None if it is not there.

        Raises DataError for a folder from before digests were kept.
        """
        if self._rows is None:
            self._rows = {entry.digest: row for row, entry in enumerate(self.entries)}
            if "" in self._rows:
                raise DataError(f"{self.folder} does not say which photos it is of: extract it again")
        return self._rows.get(photo.digest)

    def stored(self, i: int, view: int = 0) -> np.ndarray:
        """View `view` of photo `i` as it lies on the disk: uint8 or float16 (N_p, D_v), memory-mapped."""
        if not 0 <= i < len(self.entries):
            raise IndexError(f"photo {i} of {len(self.entries)}")
        if not 0 <= view < self.views:
            raise IndexError(f"view {view} of {self.views}")
        return np.asarray(self._shards[i // self.rows_per_shard][i % self.rows_per_shard, view])

    def features(self, i: int, view: int = 0) -> np.ndarray:
        """View `view` of photo `i`, float32 (N_p, D_v)."""
        values = self.stored(i, view).astype(np.float32)
        return values if self.scale is None else values * np.float32(self.scale)


def extract_features(
    samples: Iterable[CaptionedPhoto],
    folder: str | Path,
    tower: VisionTower,
    *,
    views: int = 1,
    seed: int = 0,
    ranges: ViewRange | None = None,
    on_bad: OnBad | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> FeatureStore:
    """Run `tower` over every sample: view 0 is the squashed photo, the others are random views of it.

    A view depends on (seed, key, view) alone, not on the order of the samples. Broken photos are skipped,
    given to `on_bad` and named in the index. Called again with the same samples and tower it goes on where
    a killed run stopped; with others it raises `DataError`. `on_progress(n)`: the number of samples passed,
    earlier runs included.
    """
    if views < 1:
        raise ConfigError(f"views is at least 1 (the photo as it is), not {views}")
    folder, ranges = Path(folder), ranges or ViewRange()
    card = {
        "format": FORMAT,
        "kind": "features",
        "tower": tower.name,
        "fingerprint": tower.fingerprint,
        "size": tower.size,
        "grid": tower.grid,
        "dim": tower.dim,
        "scale": tower.scale,
        "views": views,
        "augment": {"seed": seed, **_plain(ranges)} if views > 1 else None,
        "rows_per_shard": _ROWS_PER_SHARD,
    }
    shape = (views, tower.grid**2, tower.dim)
    with claim_folder(folder, card), RowLog(folder, "features", shape, _dtype(tower.scale), _ROWS_PER_SHARD) as log:
        for batch in _batches(unlogged(samples, log), max(1, _BATCH // views)):
            _extract_batch(batch, tower, views, seed, ranges, log, on_bad)
            log.commit()
            if on_progress is not None:
                on_progress(len(log.lines))
    return FeatureStore(folder)


def _extract_batch(
    batch: list[CaptionedPhoto],
    tower: VisionTower,
    views: int,
    seed: int,
    ranges: ViewRange,
    log: RowLog,
    on_bad: OnBad | None,
) -> None:
    photos: list[np.ndarray] = []
    faults: dict[int, ImageError] = {}
    for i, sample in enumerate(batch):
        try:
            photo = load_photo(sample.image)
        except ImageError as error:
            faults[i] = error
            continue
        pixels = np.asarray(photo) if views > 1 else None
        photos.append(to_square(photo, tower.size))
        for view in range(1, views):
            assert pixels is not None
            photos.append(random_view(pixels, view_rng(seed, sample.key, view), tower.size, ranges))
    features = tower(np.stack(photos)) if photos else np.empty((0, tower.grid**2, tower.dim), np.float32)
    rows = iter(_pack(features, tower.scale).reshape(-1, views, *features.shape[1:]))
    for i, sample in enumerate(batch):
        if i in faults:
            skip(sample, faults[i], log, on_bad)
        else:
            log.append(describe(sample), next(rows))


def _pack(features: np.ndarray, scale: float | None) -> np.ndarray:
    if scale is None:
        return features.astype(np.float16)
    steps: np.ndarray = np.clip(np.rint(features / np.float32(scale)), 0, 255)
    return steps.astype(np.uint8)


def _dtype(scale: float | None) -> np.dtype[np.uint8] | np.dtype[np.float16]:
    return np.dtype(np.float16) if scale is None else np.dtype(np.uint8)


def _plain(ranges: ViewRange) -> dict[str, object]:
    """As JSON gives it back, so that cards compare equal."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(ranges).items()}


def _batches(samples: Iterable[CaptionedPhoto], size: int) -> Iterator[list[CaptionedPhoto]]:
    iterator = iter(samples)
    while batch := list(islice(iterator, size)):
        yield batch
