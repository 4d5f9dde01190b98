"""Tags of photos and made-up ones."""

from __future__ import annotations

import numpy as np
import pytest

from bitmar.data.concepts import Vocabulary
from bitmar.data.concepts.bank import ConceptBank
from bitmar.train.tags import MadeUpTags, PhotoTags, best

NAMES = ("cat", "dog", "grass", "road", "car")


def bank(first: int) -> ConceptBank:
    """Finds concept `first` in everything, and the others by the channels."""
    bias = np.zeros(5, np.float32)
    bias[first] = 20
    none = np.zeros((0, 5), np.float32)
    return ConceptBank(NAMES, np.eye(5, dtype=np.float32), bias, none, none[:, 0], np.zeros(0, np.int64))


def test_the_best_come_first_and_ties_keep_their_order() -> None:
    ids, scores = best(np.array([[0.1, 0.7, 0.7, 0.2]], np.float32), 3)
    np.testing.assert_array_equal(ids, [[1, 2, 3]])
    np.testing.assert_array_equal(scores, np.float32([[0.7, 0.7, 0.2]]))


@pytest.mark.parametrize("photos", [1, 7])
def test_a_photos_tags_come_from_the_bank_that_has_not_seen_it(photos: int) -> None:
    pooled = np.zeros((photos, 2, 5), np.float32)
    pooled[:, 1, 2] = 3  # the second view shows grass
    tags = PhotoTags(pooled, [bank(0), bank(1), bank(4)], k=2)
    images = list(range(photos))
    ids, scores = tags(images, [1] * photos)
    assert ids[:, 0].tolist() == [(0, 1, 4)[i % 3] for i in images] and (ids[:, 1] == 2).all()
    np.testing.assert_allclose(scores[:, 1], 1 / (1 + np.exp(-3)), rtol=1e-3)
    assert ids.dtype == np.int64 and scores.dtype == np.float32


def test_made_up_tags_name_the_caption_and_what_else_photos_show() -> None:
    ids = np.array([[0, 2, 3], [1, 3, 4]])
    scores = np.array([[0.9, 0.5, 0.2], [0.8, 0.4, 0.1]], np.float32)
    named = np.zeros((2, 5), bool)
    named[0, 0] = named[1, 1] = True
    make = MadeUpTags(Vocabulary(NAMES), ids, scores, named)
    heard = 0
    for seed in range(50):
        found, given = make("A car.", np.random.default_rng(seed))
        assert found.shape == given.shape == (3,) and len(set(found.tolist())) == 3
        assert (np.diff(given) <= 0).all()
        heard += 4 in found and given[found.tolist().index(4)] >= 0.8  # scores of concepts that photos have right
    assert 30 <= heard < 50
    np.testing.assert_array_equal(
        make("A car.", np.random.default_rng(1))[0], make("A car.", np.random.default_rng(1))[0]
    )


def test_made_up_tags_where_photos_have_nothing_right() -> None:
    ids, scores = np.array([[0, 2]]), np.array([[0.9, 0.5]], np.float32)
    make = MadeUpTags(Vocabulary(NAMES), ids, scores, np.zeros((1, 5), bool))
    found, given = make("A car and a dog.", np.random.default_rng(0))
    assert found.shape == (2,) and given.max() == np.float32(0.9)
