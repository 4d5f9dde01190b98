from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bitmar.data.corpus import TokenStream
from bitmar.data.packing import Packing

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=20)


def _stream(sizes: list[int]) -> TokenStream:
    """Documents 0, 1, 2... whose tokens are 100 * document + place."""
    documents = [100 * i + np.arange(size) for i, size in enumerate(sizes)]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return TokenStream(np.concatenate(documents).astype(np.uint16), offsets)


@given(SIZES, st.integers(1, 9), st.integers(0, 3), st.booleans())
def test_a_pass_holds_every_document_whole_and_once(sizes: list[int], length: int, turn: int, shuffled: bool) -> None:
    stream = _stream(sizes)
    packing = Packing(stream, length, (5,) if shuffled else None)
    rows = [packing.row(turn * len(packing) + i) for i in range(len(packing))]
    assert all(len(row) == length for row in rows[:-1])
    tokens = np.concatenate(rows)
    documents = np.split(tokens, np.flatnonzero(tokens % 100 == 0)[1:])
    assert sorted(map(tuple, documents)) == sorted(tuple(stream.document(i)) for i in range(len(stream)))
    if not shuffled:
        assert np.array_equal(tokens, stream.tokens)


@given(SIZES, st.integers(1, 9), st.integers(0, 200))
def test_a_row_is_the_same_whatever_was_asked_before(sizes: list[int], length: int, number: int) -> None:
    packing = Packing(_stream(sizes), length, (7, 1))
    for before in (number + 50, 0, number):
        packing.row(before)
    assert np.array_equal(packing.row(number), Packing(_stream(sizes), length, (7, 1)).row(number))


def test_passes_and_keys_give_other_orders() -> None:
    def orders(key: tuple[int, ...]) -> list[list[int]]:
        packing = Packing(_stream([2] * 30), 60, key)
        return [packing.row(turn).tolist() for turn in range(3)]

    drawn = [*orders((1,)), *orders((2,))]
    assert all(a != b for i, a in enumerate(drawn) for b in drawn[:i])
