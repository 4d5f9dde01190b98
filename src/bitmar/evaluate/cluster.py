"""Captions of shards by the nodes of a Ray cluster, kept and written here."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError, ImageError
from bitmar.data.cluster import Bad, Cluster, Task
from bitmar.data.features import FeatureStore
from bitmar.data.shards import named_shards
from bitmar.data.sources import CaptionedPhoto, OnBad, iter_shard
from bitmar.evaluate.caption_result import CaptionResult, keep_caption
from bitmar.evaluate.photos import picture_of
from bitmar.evaluate.protocol import Picture, PictureScorer
from bitmar.evaluate.scorer import RuntimeScorer, load_scorer
from bitmar.evaluate.store import Store
from bitmar.evaluate.work import Work


class CaptionWork:
    """Captions of a shard's photos, on a node.

    model: a `.bitmar` file's bytes, which need not lie on the node, or the path of a checkpoint, which must. engine: as
    in `load_scorer`. features: a folder of `bitmar features` that every node can read.
    """

    def __init__(self, model: bytes | str, engine: str, features: str | None, options: Mapping[str, Any]) -> None:
        if isinstance(model, bytes):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.bitmar"
                path.write_bytes(model)
                self.scorer: PictureScorer = load_scorer(path, engine)
        else:
            self.scorer = load_scorer(model, engine)
        self.features, self.options = FeatureStore(features) if features else None, dict(options)
        self.identity = engine

    def __call__(self, shard: str, stem: str, known: Collection[str]) -> Iterator[CaptionResult | Bad]:
        """Every photo that can be read, in its place, and every part of the shard that cannot."""
        bad: list[Bad] = []
        samples = iter_shard(shard, stem, lambda name, reason: bad.append(Bad(name, reason)))
        while batch := list(islice(samples, self.scorer.pictures_at_once)):
            yield from bad
            bad.clear()
            yield from self._tell(batch, known)
        yield from bad

    def _tell(self, batch: list[CaptionedPhoto], known: Collection[str]) -> Iterator[CaptionResult]:
        pictures: dict[str, Picture] = {}
        errors: dict[str, str] = {}
        for sample in batch:
            if sample.digest not in known:
                try:
                    pictures[sample.digest] = picture_of(sample, self.features)
                except ImageError as error:
                    errors[sample.digest] = str(error)
        texts = self.scorer.caption(self.scorer.look(list(pictures.values())), **self.options)
        said = dict(zip(pictures, map(str, texts), strict=True))
        for sample in batch:
            name = sample.digest
            yield CaptionResult(sample.key, name, sample.captions, said.get(name), errors.get(name, ""))


def captions_on(
    address: str,
    data: str | Sequence[str],
    scorer: PictureScorer,
    features: Path | None,
    options: Mapping[str, Any],
    log: Store,
    on_bad: OnBad,
) -> Generator[CaptionResult, None, None]:
    """The nodes' captions of all photos of `data`, in order; of photos in `log` they only read the references.

    They compute as `scorer` does here; a node that cannot is an error that names it.
    """
    model: bytes | str = str(Path(scorer.name).resolve())
    engine = "torch"
    if isinstance(scorer, RuntimeScorer):
        model, engine = scorer.model.path.read_bytes(), scorer.model.engine.name
    arguments = (model, engine, str(features.resolve()) if features else None, dict(options))
    task = Task(__name__, CaptionWork.__name__, arguments, engine)
    with Cluster(address) as cluster:
        for results in cluster.results(task, named_shards(data), log.found):
            for result in results:
                if isinstance(result, Bad):
                    on_bad(*result)
                else:
                    yield result


def caption_on(
    address: str,
    scorer: PictureScorer,
    data: Sequence[str],
    work: Work,
    features: Path | None,
    options: Mapping[str, Any],
) -> None:
    """Put captions of the photos into the store of `work`, up to its limit. ConfigError where it has none."""
    if work.store is None:
        raise ConfigError("--cluster keeps its captions beside the file of --json: name one")
    progress = work.progress("captions", work.limit)
    with closing(captions_on(address, data, scorer, features, options, work.store, work.on_bad)) as said:
        for number, result in enumerate(islice(said, work.limit), 1):
            keep_caption(result, work.store, work.on_bad)
            progress(number)
