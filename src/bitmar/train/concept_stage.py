"""A stage of concepts, and what the stages after it take from there: tags of photos, captions for photos without."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bitmar.core.errors import ConfigError
from bitmar.core.files import write_atomically
from bitmar.core.vocabulary import Vocabulary
from bitmar.data.concepts import Labels, build_vocabulary
from bitmar.data.concepts.bank import F32, ConceptBank
from bitmar.data.concepts.label_captions import label_of, say, with_other_nouns
from bitmar.data.concepts.rewrite import CaptionPool
from bitmar.data.features import FeatureStore
from bitmar.data.joined import Said
from bitmar.data.tagged import read_tagged
from bitmar.data.towers import ClassifyingTower, classifier, load_tower
from bitmar.data.towers.pair import last_classifier
from bitmar.train.concepts import caption_targets, fit_bank, label_targets, pooled_features
from bitmar.train.ranks import is_main, main_first, wait
from bitmar.train.stages import Concepts
from bitmar.train.tags import MadeUpTags, PhotoTags, best
from bitmar.train.workspace import Workspace

_HEARD = 0.12  # a concept that scores more may be named in what is rewarded

BANK, FOLD, HELD = "concepts.safetensors", "fold-{}.safetensors", "heldout.safetensors"


def fit_concepts(stage: Concepts, workspace: Workspace, output: Path) -> None:
    """Runs the stage: `output` gets the bank, and the banks that its folds need."""
    data = workspace.recipe.data
    narrow = None
    if is_main():
        tower = load_tower(stage.tower)
        if stage.class_width:
            narrow = last_classifier(tower, stage.class_width)  # before the features, which take hours
    with main_first(workspace.cache):
        captioned = workspace.features("train", data.captions, stage.tower, data.views)
        labelled = labelled_features(stage, workspace)
    if is_main():
        vocabulary = build_vocabulary([captioned[i].captions for i in range(len(captioned))], stage.least)
        if len(vocabulary) < stage.tokens:
            raise ConfigError(f"stage {stage.name}: tokens {stage.tokens} exceeds the {len(vocabulary)} concepts found")
        nothing = np.zeros((0, tower.dim), np.float32), np.zeros(0, np.float32)
        classes = classifier(tower) if isinstance(tower, ClassifyingTower) else nothing
        seen = pooled_features(captioned, min(stage.views, captioned.views)), caption_targets(captioned, vocabulary)
        named = np.zeros((0, 1, tower.dim), np.float32), np.zeros((0, len(vocabulary)), np.float32)
        if labelled is not None:
            labels = [label_of(labelled[i].meta) for i in range(len(labelled))]
            named = pooled_features(labelled, min(stage.views, labelled.views)), label_targets(labels, vocabulary)
        prune = stage.least if stage.prune else 0
        banks = fit_bank(vocabulary, seen, named, classes, narrow=narrow, prune=prune, folds=stage.folds)
        banks.whole.save(output / BANK)
        banks.held_out.save(output / HELD)
        for i, fold in enumerate(banks.folds):
            fold.save(output / FOLD.format(i))
        own = len(banks.whole.keys)
        workspace.console.print(
            f"{stage.name}: {len(vocabulary)} concepts, {own} with keys of their own, {len(classes[1])} classes"
        )
    wait()


def labelled_features(stage: Concepts, workspace: Workspace) -> FeatureStore | None:
    """The features of the labelled photos, if there are any."""
    data = workspace.recipe.data
    if not data.labelled:
        return None
    return workspace.features("labelled", data.labelled, stage.tower, data.labelled_views)


class ConceptData:
    """The results of a finished stage of concepts: banks, and tags and captions made with them, cached by content."""

    def __init__(self, stage: Concepts, workspace: Workspace) -> None:
        self.stage, self.workspace = stage, workspace
        folder = Path(workspace.recipe.output) / stage.name
        self.bank = ConceptBank.load(folder / BANK)
        self.held_out = folder / HELD
        self.folds = [ConceptBank.load(folder / FOLD.format(i)) for i in range(stage.folds)]
        self.vocabulary = Vocabulary(self.bank.names)

    def features(self, source: str) -> FeatureStore:
        """The store of the labelled or the plain photos."""
        data = self.workspace.recipe.data
        views = {"labelled": data.labelled_views, "plain": data.plain_views}[source]
        return self.workspace.features(source, getattr(data, source), self.stage.tower, views)

    def tags(self, store: FeatureStore, *, fitted_on: bool = False) -> PhotoTags:
        """The tags of a store's photos. fitted_on: they are the captioned photos that the banks were fitted on."""
        banks = self.folds if fitted_on else [self.bank]
        digest = _digest(_contents(store), *map(_of_bank, banks), self.stage.tokens)
        path = self.workspace.cache / f"tags-{digest}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            PhotoTags(pooled_features(store, store.views), banks, self.stage.tokens).save(path)
        return PhotoTags.load(path)

    def said(self, source: str) -> list[Said]:
        """Captions and questions of the labelled or the plain photos."""
        store = self.features(source)
        digest = _digest(source, _contents(store), _of_bank(self.bank), self._texts)
        path = self.workspace.cache / f"said-{digest}.json"
        if not path.exists():
            self.workspace.console.print(f"Choosing captions for {len(store)} {source} photos")
            pool = CaptionPool(self._texts[0], self.vocabulary)
            scores = self.bank.scores(pooled_features(store, 1)[:, 0])
            said = say(store, scores, pool, labelled=source == "labelled")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps([asdict(each) for each in said]).encode())
        kept = json.loads(path.read_text(encoding="utf-8"))
        return [Said(tuple(each["captions"]), tuple(map(tuple, each["questions"]))) for each in kept]

    def shown(self, store: FeatureStore) -> list[set[int]]:
        """The concepts in labelled photos, by photo: those of the label, and those that the bank finds."""
        tags, of = self.tags(store), Labels(self.vocabulary)
        heard = (
            set(ids[scores >= _HEARD].tolist()) for ids, scores in zip(tags.ids[:, 0], tags.scores[:, 0], strict=True)
        )
        return [known.union(of(label_of(store[i].meta))) for i, known in enumerate(heard)]

    def tagged(self, store: FeatureStore) -> tuple[list[str], MadeUpTags]:
        """Texts that get tags in place of a photo, and what makes these; store: of the captioned photos."""
        captions, questions = self._texts
        extra = with_other_nouns(captions, self.vocabulary, np.random.default_rng(0))
        pooled, named = pooled_features(store, 1)[:, 0], caption_targets(store, self.vocabulary) > 0
        scores: F32 = np.empty((len(store), len(self.vocabulary)), np.float32)
        for fold, bank in enumerate(self.folds):
            scores[fold :: len(self.folds)] = bank.scores(pooled[fold :: len(self.folds)])
        return [*captions, *extra, *questions], MadeUpTags(self.vocabulary, *best(scores, self.stage.tokens), named)

    @cached_property
    def _texts(self) -> tuple[list[str], list[str]]:
        return read_tagged(self.workspace.recipe.data.tagged)


def _contents(store: FeatureStore) -> str:
    """Changes with the photos, their captions and labels, and with the tower."""
    return _digest(*((store.folder / name).read_text(encoding="utf-8") for name in ("store.json", "index.jsonl")))


def _of_bank(bank: ConceptBank) -> str:
    return _digest(bank.names, *(getattr(bank, name).tobytes().hex() for name in ("keys", "bias", "class_keys")))


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
