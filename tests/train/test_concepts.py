"""Fitting a concept bank on made-up features."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bitmar.data.concepts import Vocabulary, class_concepts
from bitmar.train import concepts
from bitmar.train.concepts import caption_targets, fit_bank, label_targets, pooled_features

VOCABULARY = Vocabulary(["zebra", "grass", "dog", "never"])


class Store:
    """Photos whose first channel says that there is grass; stored as uint8 in steps of a half."""

    views, dim, scale = 2, 4, 0.5

    def __init__(self, grass: np.ndarray) -> None:
        self.grass = grass

    def __len__(self) -> int:
        return len(self.grass)

    def __getitem__(self, i: int) -> Any:
        where = "grass" if self.grass[i] else "table"
        return SimpleNamespace(captions=(f"On the {where}.", f"A {where}.", "A dog."))

    def stored(self, i: int, view: int) -> np.ndarray:
        values = np.full((3, 4), 2, np.uint8)
        values[:, 0] = 2 + 6 * self.grass[i]
        values[1, 1] = 5 + view
        return values


def test_pooled_features_are_the_means_in_units_of_the_tower() -> None:
    pooled = pooled_features(Store(np.array([1, 0])), 2)  # type: ignore[arg-type]
    np.testing.assert_allclose(pooled[0], [[4, 1.5, 1, 1], [4, 10 / 6, 1, 1]], rtol=1e-6)


def test_targets_of_captions_and_labels() -> None:
    targets = caption_targets(Store(np.array([1, 0])), VOCABULARY)  # type: ignore[arg-type]
    np.testing.assert_array_equal(targets, [[0, 1, 0.5, 0], [0, 0, 0.5, 0]])
    np.testing.assert_array_equal(
        label_targets(["zebra", "a dog", "?"], VOCABULARY), [[1, 0, 0, 0], [0, 0, 1, 0], [0] * 4]
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[Any, list[Any], np.ndarray]:
    patch = pytest.MonkeyPatch()
    patch.setattr(concepts, "_STEPS", 60)
    patch.setattr(concepts, "_RATE", 0.05)
    store = Store(np.arange(40) % 3 == 0)
    pooled = pooled_features(store, 1)  # type: ignore[arg-type]
    labelled = (np.ones((6, 1, 4), np.float32), label_targets(["zebra"] * 6, VOCABULARY))
    classifier = (np.zeros((1000, 4), np.float32), np.zeros(1000, np.float32))
    bank, folds, _ = fit_bank(VOCABULARY, (pooled, caption_targets(store, VOCABULARY)), labelled, classifier, folds=2)  # type: ignore[arg-type]
    patch.undo()
    return bank, folds, pooled


def test_what_classes_find_and_few_photos_show_comes_last_without_keys() -> None:
    pooled = np.random.default_rng(0).random((9, 1, 4), np.float32)
    captioned, labelled = label_targets(["a dog"] * 9, VOCABULARY), label_targets(["zebra"] * 9, VOCABULARY)
    whole, narrow = ((np.ones((1000, width), np.float32), np.zeros(1000, np.float32)) for width in (4, 2))
    few = (pooled[:3], labelled[:3])
    bank, folds, held = fit_bank(VOCABULARY, (pooled, captioned), few, whole, narrow=narrow, prune=4, folds=3)
    assert bank.names == ("grass", "dog", "never", "zebra")  # no class is grass, and nine photos show dogs
    assert (bank.class_concepts == class_concepts(Vocabulary(bank.names))).all() and bank.prior is not None
    for each in (bank, *folds, held):
        assert each.keys.shape == (3, 4) and each.class_keys.shape == (1000, 2) and each.names == bank.names
    scores = bank.scores(pooled[:, 0])
    np.testing.assert_allclose(scores[:, 3], bank.class_scores(pooled[:, 0])[:, 3])
    assert (held.keys != bank.keys).any() and len(bank.prior) == 4
    nothing = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    assert len(fit_bank(VOCABULARY, (pooled, captioned), few, nothing, prune=4).whole.keys) == 4


def test_keys_find_what_captions_name(fitted: tuple[Any, list[Any], np.ndarray]) -> None:
    bank, _, pooled = fitted
    scores = bank.scores(pooled[:, 0])
    grass = np.arange(40) % 3 == 0
    assert scores[grass, 1].min() > 2 * scores[~grass, 1].max()
    assert bank.names == VOCABULARY.names and (bank.class_concepts == class_concepts(VOCABULARY)).all()


def test_what_no_photo_shows_has_no_key(fitted: tuple[Any, list[Any], np.ndarray]) -> None:
    bank = fitted[0]
    assert not bank.keys[3].any() and bank.bias[3] == -20


def test_every_fold_is_a_bank_of_its_own(fitted: tuple[Any, list[Any], np.ndarray]) -> None:
    bank, folds, _ = fitted
    assert len(folds) == 2 and all(fold.names == bank.names for fold in folds)
    assert (folds[0].keys != folds[1].keys).any()
