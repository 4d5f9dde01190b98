"""Patch features by the nodes of a Ray cluster, written here: the same files as `extract_features` makes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from bitmar.data.cluster import Bad, Cluster, Task
from bitmar.data.features import Extractor, FeatureStore, open_log, write_rows
from bitmar.data.photos import unlogged
from bitmar.data.shards import named_shards
from bitmar.data.sources import OnBad, iter_shard
from bitmar.data.towers import VisionTower, load_tower

_ROWS = 256  # features, after which they are made durable


class FeatureWork:
    """A tower's features of a shard's photos, on a node."""

    def __init__(self, tower: str, views: int, seed: int) -> None:
        self.extractor = Extractor(load_tower(tower), views=views, seed=seed)
        self.identity = _tower_identity(self.extractor.tower)

    def __call__(self, shard: str, stem: str, known: Collection[str]) -> Iterator[Any]:
        """A `Bad`, or a batch of index lines and rows as `Extractor` makes them."""
        bad: list[Bad] = []
        samples = iter_shard(shard, stem, lambda name, reason: bad.append(Bad(name, reason)))
        for batch in self.extractor(samples, known):
            yield from bad
            bad.clear()
            yield batch
        yield from bad


def features_on(
    address: str,
    shards: Sequence[str],
    out: Path,
    spec: str,
    extractor: Extractor,
    *,
    on_bad: OnBad,
    on_progress: Callable[[int], None],
) -> FeatureStore:
    """`extract_features`, by the nodes: the same files. spec: names the tower of `extractor` on every node too."""
    named = named_shards(shards)
    task = Task(
        __name__,
        FeatureWork.__name__,
        (spec, extractor.views, extractor.seed),
        _tower_identity(extractor.tower),
    )
    with open_log(out, extractor) as log, Cluster(address) as cluster:
        found = cluster.results(task, named, [line["key"] for line in log.lines])
        left = unlogged(_batches(found, on_bad), log, itemgetter(0), on_bad)
        write_rows(iter(lambda: list(islice(left, _ROWS)), []), log, on_bad=on_bad, on_progress=on_progress)
    return FeatureStore(out)


def _batches(found: Iterator[Iterator[Any]], skipped: OnBad) -> Iterator[Any]:
    for results in found:
        for result in results:
            if isinstance(result, Bad):
                skipped(*result)
            else:
                yield from result


def _tower_identity(tower: VisionTower) -> str:
    return f"{tower.name}, fingerprint {tower.fingerprint}"
