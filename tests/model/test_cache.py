"""The ring of keys: which tokens it keeps, and that generation may rearrange it."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitmar.model.cache import BitMarCache
from bitmar.model.memory import MemoryState, QueryCarry

SINKS, WINDOW = 2, 5


def feed(cache: BitMarCache, place: Tensor, valid: Tensor) -> None:
    """One forward's worth of tokens whose keys carry their own position."""
    cache.extend(place, valid)
    for layer in range(len(cache)):
        key = place[:, None, :, None].float().expand(-1, 2, -1, 3)
        cache.update(key, -key, layer)
    cache.evict(place.shape[1])


def expected(length: int) -> list[int]:
    return [p for p in range(length) if p < SINKS or p >= length - WINDOW]


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), padding=st.integers(0, 10))
def test_sinks_and_the_newest_tokens_stay(sizes: list[int], padding: int) -> None:
    """Two sequences, the second padded on the left, in pieces of any size."""
    cache, length = BitMarCache(2, SINKS, WINDOW), sum(sizes)
    columns = torch.arange(length)
    place = torch.stack((columns, (columns - padding).clamp(min=0)))
    valid = torch.stack((columns >= 0, columns >= padding))
    for p, v in zip(place.split(sizes, 1), valid.split(sizes, 1), strict=True):
        feed(cache, p, v)
        assert cache.positions.shape[1] <= SINKS + WINDOW
        assert all(torch.equal(k[:, 0, :, 0].long(), cache.positions) for k in cache.keys)
        assert all(torch.equal(v, -k) for k, v in zip(cache.keys, cache.values, strict=True))
    assert cache.positions[0][cache.valid[0]].tolist() == expected(length)
    assert cache.positions[1][cache.valid[1]].tolist() == expected(max(length - padding, 0))
    assert cache.get_seq_length() == length


def test_an_endless_stream_takes_constant_memory(tiny_model, inputs) -> None:
    model, sizes = tiny_model(attention_sinks=SINKS, attention_window=WINDOW), set()
    cache, row = model.model.new_cache(), inputs(batch=1, length=60)
    with torch.no_grad():
        for t in range(60):
            features = row["vision_features"] if t == 0 else None
            model(row["input_ids"][:, t : t + 1], vision_features=features, past_key_values=cache)
            tensors = [*cache.keys, *cache.values, *cache.vision, *cache.carry, cache.positions, cache.valid]
            sizes.add(sum(x.numel() for x in tensors))
    assert max(sizes) == sum(x.numel() for x in tensors) and len(sizes) == SINKS + WINDOW


def test_rearranging_takes_everything_along() -> None:
    def filled() -> BitMarCache:
        cache = BitMarCache(2, SINKS, WINDOW)
        place = torch.arange(4).expand(3, 4) + 10 * torch.arange(3).unsqueeze(1)
        feed(cache, place, place >= 0)
        cache.tokens = torch.tensor([0, 1, 2])
        cache.vision = (torch.arange(3.0)[:, None], torch.arange(3.0)[:, None])
        cache.memory = MemoryState(torch.arange(3.0)[:, None], torch.arange(3.0)[:, None])
        cache.carry = QueryCarry(torch.arange(3.0)[:, None], torch.arange(3.0)[:, None], torch.arange(3))
        return cache

    def rows(cache: BitMarCache) -> list[list[int]]:
        tensors = [cache.tokens, *cache.vision, *cache.memory, *cache.carry, cache.positions // 10]
        tensors += [x // 10 for x in cache.keys] + [-x // 10 for x in cache.values]
        return [x.flatten(1)[:, 0].long().tolist() if x.dim() > 1 else x.tolist() for x in tensors]

    cache = filled()
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert all(r == [2, 0, 0] for r in rows(cache)[:-2]) and rows(cache)[-3] == [2, 0, 0]
    cache = filled()
    cache.batch_repeat_interleave(2)
    assert all(r == [0, 0, 1, 1, 2, 2] for r in rows(cache)[:8])
    cache = filled()
    cache.batch_select_indices(torch.tensor([1]))
    assert all(r == [1] for r in rows(cache)[:8])


def test_an_empty_cache_may_be_rearranged() -> None:
    cache = BitMarCache(2, SINKS, WINDOW)
    cache.reorder_cache(torch.tensor([0]))
    assert cache.get_seq_length() == 0 and not cache.is_initialized and len(cache) == 2
