from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.core.tensors import STRANGERS
from bitmar.session.recall import FEW, Background, Index, KeySpace, Words


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


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=50)
def test_a_key_resembles_itself_most(count: int, width: int, seed: int) -> None:
    keys = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    space = KeySpace(keys)
    scores = np.stack([space.resemblance(key) for key in keys])
    np.testing.assert_allclose(np.diag(scores), 1, atol=1e-6)
    assert scores.max() <= 1 + 1e-6 and np.isfinite(scores).all()
    np.testing.assert_allclose(scores, space.among(), atol=1e-6)


def test_equal_and_empty_keys_are_finite() -> None:
    for keys in (np.ones((20, 4), np.float32), np.zeros((20, 4), np.float32), np.zeros((1, 4), np.float32)):
        assert np.isfinite(KeySpace(keys).resemblance(np.ones(4, np.float32))).all()


def test_whitening_tells_apart_what_a_common_direction_hides() -> None:
    rng = np.random.default_rng(0)
    common = rng.standard_normal(30)
    keys = (30 * rng.standard_normal((200, 1)) * common + rng.standard_normal((200, 30)) + 50).astype(np.float32)
    noise = 3 * rng.standard_normal((200, 1)) * common + 0.2 * rng.standard_normal(keys.shape)
    views = (keys + noise).astype(np.float32)

    def hits(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        return float(((b @ a.T).argmax(axis=1) == np.arange(200)).mean())

    space = KeySpace(keys)
    assert hits(space.keys, space.enter(views)) > 0.95 > 0.6 > hits(keys, views)


def test_confidence_is_the_share_of_strangers_below() -> None:
    rng = np.random.default_rng(1)
    keys = rng.standard_normal((50, 30)).astype(np.float32)
    index = Index(np.arange(50), keys)
    assert index.confidence(1.0) == 50 / 51 and index.confidence(-1.0) == 0
    known = [
        index.confidence(float(index.scores(key).max())) or 0 for key in keys + 0.2 * rng.standard_normal((50, 30))
    ]
    strange = [index.confidence(float(index.scores(key).max())) or 0 for key in rng.standard_normal((50, 30))]
    assert np.median(known) > 0.95 and np.median(strange) < 0.9
    assert Index(np.arange(FEW - 1), keys[: FEW - 1]).confidence(1.0) is None


def test_rare_words_weigh_more() -> None:
    words = Words(["the dog Rex", "the dog barks", "the dog sleeps", "", "Привет, мир"])
    assert words.resemblance("REX and the dog").argmax() == 0
    assert words.resemblance("привет").argmax() == 4
    assert words.resemblance("").max() == 0 and words.resemblance("unknown").max() == 0
    np.testing.assert_allclose(np.diag(words.among()), [1, 1, 1, 0, 1])
