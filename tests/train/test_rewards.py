"""CIDEr is CIDEr, and naming pays for what is true and costs for what is not."""

from __future__ import annotations

import numpy as np
import pytest

from bitmar.core.vocabulary import Vocabulary
from bitmar.train.rewards import CiderReward, NamingReward

REFERENCES = {
    3: ("A red dog runs.", "The red dog is running fast."),
    5: ("A man on a green bike.", "A man rides his bike over the grass."),
    8: ("Two girls play.", "Two girls in the snow."),
}
CAPTIONS = {3: "The red dog runs.", 5: "A man on a bike.", 8: "A dog."}


def test_the_reward_is_cider_over_all_references() -> None:
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="the reward needs bitmar[eval]")

    def words(text: str) -> str:
        return text.lower().replace(".", "") + " </s>"

    asked = {i: [words(text)] for i, text in CAPTIONS.items()}
    _, expected = cider.Cider().compute_score({i: [words(t) for t in r] for i, r in REFERENCES.items()}, asked)
    reward = CiderReward(REFERENCES)
    found = reward(list(CAPTIONS), list(CAPTIONS.values()), [True] * 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # One at a time and many for one image are the same thing.
    many = reward([3, 3, 3, 3, 8], [CAPTIONS[3], CAPTIONS[3], "Nothing.", "", CAPTIONS[8]], [True] * 5)
    np.testing.assert_allclose(many[[0, 1, 4]], [expected[0], expected[0], expected[2]], rtol=1e-5)
    assert many[2] < many[0] and reward([3], [CAPTIONS[3]], [False])[0] < many[0]


def test_naming_pays_by_the_share_of_references_and_costs_where_none_agrees() -> None:
    naming = NamingReward(REFERENCES, Vocabulary(["dog", "man", "bike", "grass", "cat"]))
    captions = ["A dog and dogs.", "A cat.", "Men on bikes.", "A man on grass.", "Nothing."]
    found = naming([3, 3, 5, 5, 8], captions)
    assert found.tolist() == [1.0, -0.5, 2.0, 1.5, 0.0]
