"""Shared by the stages of a run: tokenizer, corpus, photos, features. Each is built on first use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bitmar.console import progress
from bitmar.core.config import VisionTowerConfig
from bitmar.core.errors import DataError
from bitmar.core.files import write_atomically
from bitmar.core.strict_json import parse_json
from bitmar.train.mirror import Mirror
from bitmar.train.recipe import Recipe
from bitmar.train.stages import Fit, domains

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bitmar.data.caption_batches import Pixels
    from bitmar.data.corpus import Corpus
    from bitmar.data.features import FeatureStore
    from bitmar.data.photos import PhotoStore
    from bitmar.data.sources import OnBad

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the built-in tower's pixels


class Workspace:
    """The caches of one recipe, below `recipe.cache`."""

    def __init__(self, recipe: Recipe, on_bad: OnBad | None = None) -> None:
        """on_bad: gets the key of every photo that was left out, and why; also where an earlier run did so."""
        self.recipe, self._on_bad = recipe, on_bad or (lambda key, reason: None)
        self.cache = Path(recipe.cache)
        self.mirror = Mirror(recipe.checkpoints, Path(recipe.output)) if recipe.checkpoints else None
        self.console = Console(stderr=True)

    def tokenizer(self) -> Tokenizer:
        """The recipe's tokenizer; an own one is trained once on the training text and captions."""
        from bitmar.data.tokenizer import load_tokenizer, train_from_sources

        spec, data = self.recipe.tokenizer, self.recipe.data
        if spec.load is not None:
            return load_tokenizer(spec.load)
        asked = {"size": spec.train, "text": data.text, "captions": list(data.captions)}
        folder = self.cache / f"tokenizer-{_digest(asked)}"
        if not (folder / "tokenizer.json").exists():
            self.console.print(f"Training a tokenizer of {spec.train} entries")
            size, texts = spec.train or 0, domains(data.text)
            train_from_sources(folder, texts, data.captions, vocab_size=size, every=2, on_bad=self._on_bad)
        return load_tokenizer(folder)

    def corpus(self, text: dict[str, Any], cluster: str | None = None) -> Corpus | None:
        """The domains `text`, tokenised, by a cluster's nodes where its address is given; None where there are none."""
        from bitmar.data.corpus import build_corpus, here

        if not text:
            return None
        tokenise: Callable[..., Any] = here
        if cluster is not None:
            from bitmar.data.corpus_work import on_nodes

            tokenise = partial(on_nodes, cluster)
        into, heldout = self.cache / "corpus", self.recipe.data.heldout
        return build_corpus(domains(text), self.tokenizer(), into, heldout=heldout, tokenise=tokenise)

    def texts(self) -> list[dict[str, Any]]:
        """The domains of each stage that trains on text."""
        data = self.recipe.data.text
        return [
            stage.text or data for stage in self.recipe.stages if isinstance(stage, Fit) and stage.sources().get("text")
        ]

    def check(self, patterns: Sequence[str], text: Mapping[str, Any]) -> None:
        """Raises DataError for a shard or a text that is not there: before hours are spent, not after."""
        from bitmar.data.shards import expand_shards

        expand_shards(patterns)
        for domain in domains(dict(text)).values():
            if domain.path is not None:
                domain.files()

    def photos(self, name: str, patterns: tuple[str, ...]) -> PhotoStore:
        """Decoded photos of the shards; `name` only makes the folder readable."""
        from bitmar.data.photos import PhotoStore, build_photo_store

        size = self.pixels.size
        folder = self.cache / f"photos-{name}-{_digest([list(patterns), size])}"

        def build(samples: Iterable[Any], bad: Callable[[str, str], None], tick: Callable[[int], None]) -> None:
            build_photo_store(samples, folder, size=size, on_bad=bad, on_progress=tick)

        self._once(folder, patterns, f"Decoding {name} photos", build)
        return PhotoStore(folder)

    @property
    def pixels(self) -> Pixels:
        """The built-in tower's input of a photo."""
        from bitmar.data.caption_batches import Pixels

        return Pixels(VisionTowerConfig.from_dict(self.recipe.tower or {}).image_size, MEAN, STD)

    def captioned_features(self, stage: Fit) -> FeatureStore:
        """The features of the captioned photos that a stage trains on."""
        data = self.recipe.data
        return self.features("train", stage.captions or data.captions, str(stage.tower), data.views)

    def validation_features(self, stage: Fit) -> FeatureStore:
        """The features of the validation photos, as the stage's tower sees them."""
        return self.features("validation", self.recipe.data.validation, str(stage.tower), 1)

    def features(self, name: str, patterns: tuple[str, ...], tower: str, views: int) -> FeatureStore:
        """A teacher's patch features of the shards."""
        from bitmar.data.augment import ViewRange
        from bitmar.data.features import FeatureStore, extract_features
        from bitmar.data.towers import load_tower

        data = self.recipe.data
        ranges = ViewRange(area=data.view_area, colour=data.view_colour)
        asked = [list(patterns), tower, views, data.view_area, data.view_colour]
        folder = self.cache / f"features-{name}-{_digest(asked)}"

        def build(samples: Iterable[Any], bad: Callable[[str, str], None], tick: Callable[[int], None]) -> None:
            extract_features(
                samples, folder, load_tower(tower), views=views, ranges=ranges, on_bad=bad, on_progress=tick
            )

        self._once(folder, patterns, f"Extracting features of {name} photos", build)
        return FeatureStore(folder)

    def _once(
        self, folder: Path, patterns: tuple[str, ...], title: str, build: Callable[[Iterable[Any], Any, Any], None]
    ) -> None:
        """Runs `build` unless it has finished before with the same shards; a killed build goes on where it stopped.

        Shards that have changed since are read again, and DataError says so if their photos are others.
        """
        from bitmar.data.sources import iter_webdataset

        if not patterns:
            raise DataError(f"{title}: the recipe names no shards; give data.captions, data.photos or data.validation")
        done, stamps = folder / "complete.json", _stamps(patterns)
        if done.exists():
            before = _finished(done)
            if before is not None and (stamps is None or before.get("shards", stamps) == stamps):
                for key, reason in before["skipped"]:
                    self._on_bad(key, reason)
                return
        bad: list[tuple[str, str]] = []

        def on_bad(key: str, reason: str) -> None:
            bad.append((key, reason))
            self._on_bad(key, reason)
            self.console.print(f"[yellow]skipped[/] {key}: {reason}")

        with progress(to=self.console) as bar:
            task = bar.add_task(title, total=None)
            build(iter_webdataset(patterns, on_bad), on_bad, lambda n: bar.update(task, completed=n))
        about = {"patterns": list(patterns), "shards": stamps, "skipped": bad}
        write_atomically(done, json.dumps(about).encode())


def _finished(done: Path) -> dict[str, Any] | None:
    """What a finished build has noted; None where that is damaged, so that the shards are read again."""
    try:
        before = parse_json(done.read_bytes())
        skipped = before["skipped"]
        whole = all(isinstance(text, str) for key, reason in skipped for text in (key, reason))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return before if whole else None


def _stamps(patterns: tuple[str, ...]) -> list[list[Any]] | None:
    """Path, size and time of each local shard: what shows that one was replaced. None where they are gone."""
    from bitmar.data.shards import expand_shards

    try:
        files = [Path(shard) for shard in expand_shards(patterns)]
    except DataError:
        return None
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
