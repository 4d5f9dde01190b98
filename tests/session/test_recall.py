from __future__ import annotations

import numpy as np
import pytest

from bitmar.core.tensors import STRANGERS
from bitmar.session.recall import Background, Index, KeySpace, Words


def test_what_all_keys_share_does_not_count() -> None:
    keys = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32) + np.float32(10)
    among = KeySpace(keys).among()
    assert among[~np.eye(400, dtype=bool)].mean() < 0.3  # without centring 0.99


@pytest.mark.parametrize(("resemblance", "chance"), [(1.0, 1e-6), (0.9, 1e-5), (0.95, 10**-5.5), (0.0, 1.0)])
def test_a_perfect_resemblance_is_ten_times_rarer_than_the_rarest_seen(resemblance: float, chance: float) -> None:
    strangers = np.linspace(0, 0.9, STRANGERS).astype(np.float32)
    background = Background(np.zeros(8, np.float32), np.eye(8, dtype=np.float32), strangers)
    assert background.chance(resemblance) == pytest.approx(chance, rel=1e-4)


def test_an_index_that_follows_is_as_one_made_anew() -> None:
    rng = np.random.default_rng(0)
    slots = np.arange(20)
    keys, texts = rng.standard_normal((40, 6)).astype(np.float32), {i: f"w{i % 7} w{i % 5} all" for i in range(40)}
    index = Index(slots, keys, texts)
    for round_ in range(30):
        changed = np.sort(rng.choice(40, 5, replace=False))
        keys[changed] = rng.standard_normal((5, 6))
        texts.update({int(slot): f"w{rng.integers(9)} round{round_} all" for slot in changed})
        slots = np.union1d(np.setdiff1d(slots, changed), changed[rng.random(5) < 0.7])
        index.follow(changed, slots)
        anew = Index(slots, keys, texts)
        for text in ("w1 w2", "round3 all", "unknown"):
            np.testing.assert_allclose(index.scores(keys[3], text), anew.scores(keys[3], text), atol=1e-6)
        assert index.confidence(0.5) == anew.confidence(0.5)


def test_no_score_is_above_1() -> None:
    keys = np.random.default_rng(0).standard_normal((2000, 24)).astype(np.float32)
    index = Index(np.arange(2000), keys)
    assert max(index.scores(key).max() for key in keys) <= 1


def test_words_that_no_text_has_any_more_are_forgotten() -> None:
    words = Words(["the first"])
    for i in range(3000):
        words.follow([0], [f"number{i} the"], 1)
    assert len(words._number) < 1100
    assert words.resemblance("number2999 the")[0] == pytest.approx(1)
    assert words.resemblance("number7")[0] == 0


def test_of_many_episodes_some_say_what_a_chance_resemblance_is() -> None:
    keys = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    index = Index(np.arange(3000), keys)
    nearest = KeySpace(keys).among()
    np.fill_diagonal(nearest, -1)
    for share in (0.25, 0.5, 0.9):
        score = float(np.quantile(nearest.max(axis=1), share))
        assert index.confidence(score) == pytest.approx(share, abs=0.06)
    assert index.confidence(1.0) == 512 / 513


def test_words_are_the_same_in_any_case() -> None:
    words = Words(["our dog Rex", "the blue sea", "a straße"])
    assert words.resemblance("REX").argmax() == 0 and words.resemblance("REX")[0] > 0
    assert words.resemblance("STRASSE").argmax() == 2 and words.resemblance("STRASSE")[2] > 0
