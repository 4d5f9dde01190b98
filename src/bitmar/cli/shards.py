"""Captions of whole shards: a JSON line per photo, safe to stop and to go on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bitmar.api import BitMar
from bitmar.console import Skipped, progress, resumable, say
from bitmar.core.errors import ConfigError, DataError, ImageError
from bitmar.core.files import write_atomically
from bitmar.data.features import FeatureStore
from bitmar.data.shards import expand_shards
from bitmar.data.sources import CaptionedPhoto, iter_webdataset
from bitmar.evaluate.store import Store
from bitmar.plots.grid import Cell
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.options import Options


class ShardCaptioner:
    """Captions every photo of `data` with `model`.

    features: a folder of `bitmar features` that has these photos, which a model without a tower needs.
    options: as in `GenerationOptions`. Raises ConfigError if model and pictures do not go together.
    """

    def __init__(self, model: BitMar, data: Sequence[str], features: Path | None, options: Options) -> None:
        self.model, self.data, self.options = model, list(data), options
        self._store = _open_features(model, features) if features else None
        if self._store is None and model.config.vision_tower is None:
            raise ConfigError(
                f"{model.path} has no vision tower: extract the features of these shards with `bitmar features` and "
                "the tower that it was trained on, then name their folder with --features"
            )

    def run(self, out: Path, limit: int | None = None) -> tuple[int, Skipped]:
        """Write {"key", "caption", "references"} a line to `out`: how many, and what was skipped.

        Captions gather in OUT.partial under their photos' digests, so that the same call goes on after a stop, whatever
        the shards are called by then and in whichever order they come; `out` is written at the end.
        """
        expand_shards(self.data)  # a misspelt name is told before anything is written
        lines: list[dict[str, Any]] = []
        log = self._log(out)
        with log, resumable(lambda: log.path if log.found else None), progress() as bar:
            skipped = Skipped(bar)
            if log.replaced:
                say(log.replaced)
            task = bar.add_task("captions", total=limit)
            for sample in islice(iter_webdataset(self.data, skipped), limit):
                bar.update(task, advance=1)
                if sample.digest not in log.found:
                    try:
                        log.put(sample.digest, self.model.caption(self._image(sample), **self.options))
                    except ImageError as error:
                        skipped(sample.key, str(error))
                        continue
                text = log.found[sample.digest]
                lines.append({"key": sample.key, "caption": text, "references": list(sample.captions)})
            if not lines:
                log.finish()
                reason = next(iter(skipped.reasons.values()), "the shards are empty")
                raise DataError(f"no photo of {', '.join(self.data)} could be captioned: {reason}")
            write_atomically(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
            log.finish()
        return len(lines), skipped

    def _log(self, out: Path) -> Store:
        """What an earlier run of the same task has written; captions of two models or options never mix."""
        with safe_open(self.model.path, framework="numpy") as file:
            checksum = (file.metadata() or {}).get("checksum")
        fingerprint = self._store.fingerprint if self._store else None
        task = {"model": checksum, "features": fingerprint, "options": self.options}
        return Store(out.with_name(f"{out.name}.partial"), task)

    def _image(self, sample: CaptionedPhoto) -> ImageTokens:
        if self._store is None:
            return self.model.encode_image(sample.image)
        row = self._store.row_of(sample)
        if row is None:
            raise ImageError(f"{self._store.folder} has no features of this photo")
        return self.model.encode_image(features=self._store.features(row))


def _open_features(model: BitMar, folder: Path) -> FeatureStore:
    store, config = FeatureStore(folder), model.config
    if (store.grid, store.dim) != (config.vision_grid, config.vision_dim):
        raise ConfigError(
            f"{folder} has {store.grid}x{store.grid} patches of {store.dim}; the model was trained on "
            f"{config.vision_grid}x{config.vision_grid} of {config.vision_dim}"
        )
    trained_on = model.vision.get("feature_hash")
    if trained_on not in (None, store.fingerprint):
        # No error: one tower has several fingerprints, by the precision that the machine at hand computes in.
        say(f"warning: the features are from {store.tower}, the model was trained on {model.vision.get('teacher')}")
    return store


def grid_cells(data: Sequence[str], captions: Path, count: int) -> list[Cell]:
    """The first `count` photos of the shards that have a line in `captions`, with what it says."""
    waiting = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    cells: list[Cell] = []
    for sample in iter_webdataset(list(data)):  # the lines are in the order of the shards, and lack the skipped
        if len(cells) == min(count, len(waiting)):
            break
        if (line := waiting[len(cells)])["key"] == sample.key:
            cells.append(Cell(sample.image, line["caption"], tuple(line["references"])))
    return cells
