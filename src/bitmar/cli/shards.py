"""Captions of whole shards: a JSON line per photo, safe to stop and to go on with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bitmar.cli.common import needs
from bitmar.console import Skipped, progress, resumable, say
from bitmar.core.errors import ConfigError, DataError, ImageError
from bitmar.core.files import write_atomically
from bitmar.data.features import FeatureStore
from bitmar.data.sources import CaptionedPhoto, OnBad, iter_webdataset
from bitmar.plots.grid import Cell
from bitmar.runtime.api import BitMar
from bitmar.runtime.cache import ImageTokens


class ShardCaptioner:
    """Captions every photo of `data` with `model`.

    features: a folder of `bitmar features` that has these photos, which a model without a tower needs.
    options: as in `GenerationOptions`. Raises ConfigError if model and pictures do not go together.
    """

    def __init__(self, model: BitMar, data: Sequence[str], features: Path | None, options: Mapping[str, int]) -> None:
        self.model, self.data, self.options = model, list(data), dict(options)
        self._store = _open_features(model, features) if features else None
        if self._store is None and model.config.vision_tower is None:
            raise ConfigError(
                f"{model.path} has no vision tower: extract the features of these shards with `bitmar features` and "
                "the tower that it was trained on, then name their folder with --features"
            )
        self._rows = {entry.key: row for row, entry in enumerate(self._store.entries)} if self._store else {}

    def run(self, out: Path, limit: int | None = None) -> tuple[int, Skipped]:
        """Write {"key", "caption", "references"} a line to `out`: how many, and what was skipped.

        Lines gather in OUT.partial, which the same call goes on with after a stop; `out` is written at the end.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f"{out.name}.partial")
        lines = self._begin(partial)
        kept = resumable(lambda: partial if lines else None)
        with needs("train"), kept, progress() as bar, partial.open("a", encoding="utf-8") as file:
            skipped = Skipped(bar)
            for line in lines:
                if "error" in line:
                    skipped(line["key"], line["error"])
            task = bar.add_task("captions", total=limit, completed=len(lines))
            for sample in self._unwritten(lines, limit, skipped):
                line = self._line(sample, skipped)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                lines.append(line)
                bar.update(task, completed=len(lines))
            if lines:
                bar.update(task, total=len(lines))
        good = [line for line in lines if "error" not in line]
        if not good:
            partial.unlink()
            reason = next(iter(skipped.reasons.values()), "the shards are empty")
            raise DataError(f"no photo of {', '.join(self.data)} could be captioned: {reason}")
        write_atomically(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in good).encode())
        partial.unlink()
        return len(good), skipped

    def _begin(self, partial: Path) -> list[dict[str, Any]]:
        """What an earlier run of the same task has written; the file is left ready to be appended to.

        Its first line says which task that was, so that captions of two models never mix.
        """
        with safe_open(self.model.path, framework="numpy") as file:
            checksum = (file.metadata() or {}).get("checksum")
        fingerprint = self._store.fingerprint if self._store else None
        task = {"model": checksum, "data": self.data, "features": fingerprint, **self.options}
        lines: list[dict[str, Any]] = []
        if partial.exists():
            whole = partial.read_bytes().split(b"\n")[:-1]  # a kill leaves half a line at the end
            try:
                begun, *lines = [json.loads(line) for line in whole] or [None]
            except ValueError:
                begun = None
            if begun != task:
                raise DataError(f"{partial} is left from another model or other data; delete it to begin anew")
        write_atomically(partial, b"".join(json.dumps(line).encode() + b"\n" for line in [task, *lines]))
        return lines

    def _unwritten(self, lines: list[dict[str, Any]], limit: int | None, on_bad: OnBad) -> Iterator[CaptionedPhoto]:
        done = [line["key"] for line in lines]
        for position, sample in enumerate(islice(iter_webdataset(self.data, on_bad), limit)):
            if position >= len(done):
                yield sample
            elif sample.key != done[position]:
                raise DataError(f"the shards have changed: photo {position} was {done[position]}, now {sample.key}")

    def _line(self, sample: CaptionedPhoto, on_bad: OnBad) -> dict[str, Any]:
        try:
            text = self.model.caption(self._image(sample), **self.options)
        except ImageError as error:
            on_bad(sample.key, str(error))
            return {"key": sample.key, "error": str(error)}
        return {"key": sample.key, "caption": text, "references": list(sample.captions)}

    def _image(self, sample: CaptionedPhoto) -> ImageTokens:
        if self._store is None:
            return self.model.encode_image(sample.image)
        if sample.key not in self._rows:
            raise ImageError(f"{self._store.folder} has no features of this photo")
        return self.model.encode_image(features=self._store.features(self._rows[sample.key]))


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
    lines = {line["key"]: line for line in map(json.loads, captions.read_text(encoding="utf-8").splitlines())}
    cells: list[Cell] = []
    for sample in iter_webdataset(list(data)):
        if len(cells) == min(count, len(lines)):
            break
        if line := lines.get(sample.key):
            cells.append(Cell(sample.image, line["caption"], tuple(line["references"])))
    return cells
