"""Patch features, extracted once from a frozen tower and memory-mapped for training.

Layout of a folder: `store.json` (tower, fingerprint, sizes), `index.jsonl` (a line per sample: key, row,
captions, meta; a broken photo has row null and its error) and `features-00000.npy`, ..., each (rows, views,
N_p, D_v), uint8 where the tower has a scale and float16 elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import Any

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

Row = np.ndarray | ImageError
"""A photo's features, uint8 or float16 (views, N_p, D_v), or why it has none."""


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
    extractor = Extractor(tower, views=views, seed=seed, ranges=ranges)
    with open_log(folder, extractor) as log:
        left = unlogged(samples, log, describe, on_bad)
        write_rows(extractor(left), log, on_bad=on_bad, on_progress=on_progress)
    return FeatureStore(folder)


def write_rows(
    batches: Iterable[Iterable[tuple[dict[str, Any], Row]]],
    log: RowLog,
    *,
    on_bad: OnBad | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Append what an `Extractor` found, durable after each batch."""
    for batch in batches:
        for line, row in batch:
            if isinstance(row, ImageError):
                skip(line, row, log, on_bad)
            else:
                log.append(line, row)
        log.commit()
        if on_progress is not None:
            on_progress(len(log.lines))


class Extractor:
    """A tower over samples, in batches that end with their shard: what is computed beside what is always the same.

    card: the `store.json` of the features. shape, dtype: of a photo's row.
    """

    def __init__(self, tower: VisionTower, *, views: int = 1, seed: int = 0, ranges: ViewRange | None = None) -> None:
        if views < 1:
            raise ConfigError(f"views is at least 1 (the photo as it is), not {views}")
        self.tower, self.views, self.seed, self.ranges = tower, views, seed, ranges or ViewRange()
        self.shape, self.dtype = (views, tower.grid**2, tower.dim), _dtype(tower.scale)
        self.card = {
            "format": FORMAT,
            "kind": "features",
            "tower": tower.name,
            "fingerprint": tower.fingerprint,
            "size": tower.size,
            "grid": tower.grid,
            "dim": tower.dim,
            "scale": tower.scale,
            "views": views,
            "augment": {"seed": seed, **_plain(self.ranges)} if views > 1 else None,
            "rows_per_shard": _ROWS_PER_SHARD,
        }

    def __call__(
        self, samples: Iterable[CaptionedPhoto], known: Collection[str] = ()
    ) -> Iterator[list[tuple[dict[str, Any], Row]]]:
        """Each sample's line of the index, and its row or what is wrong with its photo.

        A batch whose keys are all known is not computed; its rows are empty.
        """
        nothing = np.empty(0, self.dtype)
        for _, shard in groupby(samples, key=lambda sample: sample.shard):
            while batch := list(islice(shard, max(1, _BATCH // self.views))):
                done = all(sample.key in known for sample in batch)
                rows = [nothing] * len(batch) if done else self._rows(batch)
                yield list(zip(map(describe, batch), rows, strict=True))

    def _rows(self, batch: list[CaptionedPhoto]) -> list[Row]:
        photos: list[np.ndarray] = []
        faults: dict[int, ImageError] = {}
        for i, sample in enumerate(batch):
            try:
                photo = load_photo(sample.image)
            except ImageError as error:
                faults[i] = error
                continue
            pixels = np.asarray(photo) if self.views > 1 else None
            photos.append(to_square(photo, self.tower.size))
            for view in range(1, self.views):
                assert pixels is not None
                rng = view_rng(self.seed, sample.key, view)
                photos.append(random_view(pixels, rng, self.tower.size, self.ranges))
        features = self.tower(np.stack(photos)) if photos else np.empty((0, *self.shape[1:]), np.float32)
        rows = iter(_pack(features, self.tower.scale).reshape(-1, *self.shape))
        return [faults[i] if i in faults else next(rows) for i in range(len(batch))]


@contextmanager
def open_log(folder: str | Path, extractor: Extractor) -> Iterator[RowLog]:
    """The folder's rows, for its one writer; DataError where it holds features of another kind."""
    folder = Path(folder)
    shape, dtype = extractor.shape, extractor.dtype
    with claim_folder(folder, extractor.card), RowLog(folder, "features", shape, dtype, _ROWS_PER_SHARD) as log:
        yield log


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
