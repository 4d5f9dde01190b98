"""Ranks, recall, chance, and the two ways to score a pair."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.errors import DataError
from bitmar.evaluate.figure import plain
from bitmar.evaluate.tasks.retrieval import Gallery, best_ranks, evaluate_retrieval, pairs_to_score

from ..fakes import FakeScorer

N = 12
PICTURES = list(np.eye(N, dtype=np.float32)[:, None])  # (1, N): the first row is the picture's vector
CAPTIONS = [[f"First {i}.", f"Second {i}.", "..."] for i in range(N)]


def number(text: str) -> int:
    return int(text.strip(".").split()[1])


def scorer(right: Any = lambda i: i, sees: bool = True) -> FakeScorer:
    """Captions lie where their picture lies, or elsewhere; likelihoods know the right picture if it sees."""
    texts = [text for group in CAPTIONS for text in group if text != "..."]

    def rule(text: str, image: Any) -> list[float]:
        bonus = 3.0 if sees and image is not None and np.argmax(image) == number(text) else 0.0
        return [-5.0 - number(text) + bonus, -1.0]

    return FakeScorer(rule, {text: np.eye(N, dtype=np.float32)[right(number(text))] for text in texts})


def test_ranks_count_ties_as_half_a_place() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
    right = np.array([[True, False, False], [True, True, False], [True, False, False]])
    assert best_ranks(scores, right).tolist() == [1, 2, 2]  # the best of two right ones; in the middle of three


def test_what_matches_is_found() -> None:
    found = evaluate_retrieval(scorer(), Gallery(PICTURES, CAPTIONS), pool=5, rerank=4, queries=6)
    assert (found.photos, found.captions) == (N, 2 * N)
    for ways in (found.contrastive, found.pool_contrastive, found.pool_pmi, found.unranked, found.reranked):
        assert ways is not None
        for each in (ways.image_to_text, ways.text_to_image):
            assert each.recall["1"].value == each.recall["10"].value == each.median_rank == 1
    assert (found.contrastive.image_to_text.queries, found.contrastive.image_to_text.candidates) == (N, 2 * N)
    assert (found.contrastive.text_to_image.queries, found.contrastive.text_to_image.candidates) == (2 * N, N)
    assert found.pool_pmi is not None and found.pool_pmi.text_to_image.candidates == 5
    json.dumps(plain(found))


def test_chance_counts_all_captions_of_a_photo() -> None:
    found = evaluate_retrieval(scorer(), Gallery(PICTURES, CAPTIONS), pool=0, rerank=0)
    assert found.contrastive.image_to_text.chance["1"] == pytest.approx(2 / 24)
    assert found.contrastive.image_to_text.chance["5"] == pytest.approx(
        1 - (22 * 21 * 20 * 19 * 18) / (24 * 23 * 22 * 21 * 20)
    )
    assert found.contrastive.text_to_image.chance["10"] == pytest.approx(10 / 12)
    assert found.pool_pmi is found.reranked is found.unranked is None


def test_a_space_of_noise_is_no_better_than_chance() -> None:
    found = evaluate_retrieval(scorer(lambda i: (i + 1) % N), Gallery(PICTURES, CAPTIONS), pool=0, rerank=0)
    assert found.contrastive.image_to_text.recall["1"].value == found.contrastive.text_to_image.recall["1"].value == 0
    # All the same: every rank is in the middle, not first.
    same = evaluate_retrieval(scorer(lambda i: 0), Gallery(PICTURES, CAPTIONS), pool=0, rerank=0)
    assert same.contrastive.text_to_image.recall["5"].value <= 0.5


def test_pmi_takes_out_what_a_caption_costs_anyway() -> None:
    """First captions differ by up to eleven nats whatever is shown, and by three nats beside the right picture."""
    found = evaluate_retrieval(scorer(), Gallery(PICTURES, CAPTIONS), pool=N, rerank=0)
    assert found.pool_pmi is not None and found.pool_pmi.image_to_text.recall["1"].value == 1
    blind = evaluate_retrieval(scorer(sees=False), Gallery(PICTURES, CAPTIONS), pool=N, rerank=0)
    assert blind.pool_pmi is not None and blind.pool_pmi.image_to_text.recall["1"].value == 0
    assert blind.pool_pmi.image_to_text.median_rank == (1 + N) / 2


def test_reranking_mends_what_is_among_the_best_and_nothing_else() -> None:
    """In a space that says the same of all pictures, the first four by number are "the best"."""
    seen: list[int] = []
    gallery = Gallery(PICTURES, CAPTIONS)
    found = evaluate_retrieval(scorer(lambda i: 0), gallery, pool=0, rerank=4, queries=N, on_progress=seen.append)
    assert found.reranked is not None and found.unranked is not None
    assert seen[-1] == pairs_to_score(gallery, 0, 4, N) == 2 * 4 * N
    assert found.reranked.text_to_image.recall["1"].value == pytest.approx(4 / N)
    assert found.reranked.image_to_text.recall["1"].value == pytest.approx(2 / N)
    assert found.reranked_best == 4


def test_photos_without_words_are_left_out() -> None:
    gallery = Gallery(PICTURES[:3], [["..."], ["A dog ."], ["A cat", ""]])
    assert len(gallery) == 2 and gallery.texts == ["A dog.", "A cat."] and gallery.owner.tolist() == [0, 1]
    with pytest.raises(DataError, match="at least two"):
        Gallery(PICTURES[:2], [["A dog."], []])


@given(st.integers(2, 30), st.integers(0, 10_000))
def test_ranks_are_those_of_sorting(n: int, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(n * n).reshape(n, n).astype(float)
    wanted = [1 + sorted(row, reverse=True).index(row[i]) for i, row in enumerate(scores.tolist())]
    assert best_ranks(scores, np.eye(n, dtype=bool)).tolist() == wanted
