"""Captions of whole shards: a JSON line per photo, safe to stop and to go on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from bitmar.api import BitMar
from bitmar.console import Skipped, Steps, progress, resumable, say
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.files import write_atomically
from bitmar.data.features import FeatureStore
from bitmar.data.shards import expand_shards
from bitmar.data.sources import iter_webdataset
from bitmar.evaluate.cluster import captions_on
from bitmar.evaluate.figure import plain
from bitmar.evaluate.photos import read_pictures
from bitmar.evaluate.scorer import RuntimeScorer
from bitmar.evaluate.store import Store, fingerprint
from bitmar.evaluate.tasks.captions import Captioner
from bitmar.evaluate.work import Work
from bitmar.plots.grid import Cell


def caption_shards(
    model: BitMar,
    data: Sequence[str],
    features: Path | None,
    out: Path,
    options: dict[str, int | None],
    limit: int | None,
    cluster: str | None = None,
) -> tuple[int, Skipped]:
    """Write {"key", "caption", "references"} a line to `out` for every photo: how many, and what was skipped.

    features: a folder of `bitmar features` that has these photos, which a model without a tower needs. options: beams,
    max_tokens. Captions gather in OUT.partial under their photos' digests, so that the same call goes on after a stop,
    whatever the shards are called by then and in whichever order they come; `out` is written at the end. cluster: whose
    nodes caption in place of this process, "auto" or HOST:PORT. Raises ConfigError if model and pictures do not go
    together, DataError where nothing can be captioned.
    """
    known = _check(model, features)
    expand_shards(data)  # a misspelt name is an error before anything is written
    scorer = RuntimeScorer(model)
    task = {"model": fingerprint(scorer), "features": known, "options": options}
    with Store(out.with_name(f"{out.name}.partial"), task) as log:
        if log.replaced:
            say(log.replaced)
        with resumable(lambda: log.path if log.found else None), progress() as bar:
            skipped = Skipped(bar)
            captioner = Captioner(scorer, Work(limit, log, None, skipped, Steps(bar)), options, grounding=0)
            if cluster is None:
                captioner.caption(read_pictures(data, features=features, limit=limit, on_bad=skipped))
            else:
                with closing(captions_on(cluster, data, scorer, features, options, log, skipped)) as results:
                    captioner.take(islice(results, limit))
        if not captioner.lines:
            reason = next(iter(skipped.reasons.values()), "the shards are empty")
            raise DataError(f"no photo of {', '.join(data)} could be captioned: {reason}")
        lines = (json.dumps(plain(line), ensure_ascii=False) + "\n" for line in captioner.lines)
        write_atomically(out, "".join(lines).encode())
        log.finish()
    return len(captioner.lines), skipped


def _check(model: BitMar, features: Path | None) -> str | None:
    """The features' fingerprint. ConfigError if the model cannot take them, or has no tower and needs some."""
    if features is None:
        if model.config.vision_tower is None:
            raise ConfigError(
                f"{model.path} has no vision tower: extract the features of these shards with `bitmar features` and "
                "the tower that it was trained on, then name their folder with --features"
            )
        return None
    store, config = FeatureStore(features), model.config
    if (store.grid, store.dim) != (config.vision_grid, config.vision_dim):
        raise ConfigError(
            f"{features} has {store.grid}x{store.grid} patches of {store.dim}; the model was trained on "
            f"{config.vision_grid}x{config.vision_grid} of {config.vision_dim}"
        )
    trained_on = model.vision.get("feature_hash")
    if trained_on not in (None, store.fingerprint):
        # No error: one tower has several fingerprints, by the precision that the machine at hand computes in.
        say(f"warning: the features are from {store.tower}, the model was trained on {model.vision.get('teacher')}")
    return store.fingerprint


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
