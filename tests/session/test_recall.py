from __future__ import annotations

import numpy as np
import pytest

from bitmar.core.tensors import STRANGERS
from bitmar.session.recall import Background, KeySpace, Words


def test_what_all_keys_share_does_not_count() -> None:
    keys = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32) + np.float32(10)
    among = KeySpace(keys).among()
    assert among[~np.eye(400, dtype=bool)].mean() < 0.3  # without centring 0.99


@pytest.mark.parametrize(("resemblance", "chance"), [(1.0, 1e-6), (0.9, 1e-5), (0.95, 10**-5.5), (0.0, 1.0)])
def test_a_perfect_resemblance_is_ten_times_rarer_than_the_rarest_seen(resemblance: float, chance: float) -> None:
    strangers = np.linspace(0, 0.9, STRANGERS).astype(np.float32)
    background = Background(np.zeros(8, np.float32), np.eye(8, dtype=np.float32), strangers)
    assert background.chance(resemblance) == pytest.approx(chance, rel=1e-4)


def test_words_are_the_same_in_any_case() -> None:
    words = Words(["our dog Rex", "the blue sea", "a straße"])
    assert words.resemblance("REX").argmax() == 0 and words.resemblance("REX")[0] > 0
    assert words.resemblance("STRASSE").argmax() == 2 and words.resemblance("STRASSE")[2] > 0
