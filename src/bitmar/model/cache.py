"""What generation keeps between tokens: the ring of keys and values with sinks, and everything else that is running."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .memory import MemoryState, QueryCarry


class BitMarCache(Cache):
    """Keys and values of the first S and the last W tokens in every layer of both stacks; constant size for ever.

    It also carries the image's keys and values in the fusion, the memory's state and the running query, so that a
    cached step and a full forward compute the same thing. Keys are stored unrotated (see `attention.py`).
    """

    is_compileable = False

    def __init__(self, num_layers: int, sinks: int, window: int) -> None:
        # The base class manages layers of its own; this cache replaces them, so its constructor has nothing to build.
        self.sinks, self.window = sinks, window
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers
        self.layers: list = []
        self.positions: Tensor | None = None  # (B, n) position of every cached token
        self.valid: Tensor | None = None  # (B, n) False on padding
        self.seen = 0  # columns seen, padding included: what transformers calls the sequence length
        self.tokens: Tensor | None = None  # (B,) tokens seen, padding not included
        self.vision: tuple[Tensor, Tensor] | None = None
        self.memory: MemoryState | None = None
        self.carry: QueryCarry | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Appends (B, h, T, d_h) and returns all that a query of this call may see."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if keys is not None and values is not None:
            key_states = torch.cat((keys, key_states), dim=2)
            value_states = torch.cat((values, value_states), dim=2)
        self.keys[layer_idx], self.values[layer_idx] = key_states, value_states
        return key_states, value_states

    def extend(self, positions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Registers the new tokens' positions (B, T) and validity (B, T); returns those of all cached tokens."""
        if self.positions is not None and self.valid is not None:
            positions = torch.cat((self.positions, positions), dim=1)
            valid = torch.cat((self.valid, valid), dim=1)
        self.positions, self.valid = positions, valid
        return positions, valid

    def evict(self, new_tokens: int) -> None:
        """Ends a forward: keeps the sinks and the W newest tokens of every sequence."""
        self.seen += new_tokens
        if self.positions is None or self.valid is None or self.positions.shape[1] <= self.sinks + self.window:
            return
        # Padding stands on the left, so sequences of a batch have their sinks in different columns.
        sink = self.valid & (self.positions < self.sinks)
        last = self.positions[:, -1:]
        recent = self.valid & (self.positions > last - self.window)
        order = (sink | recent).to(torch.int8)
        keep = order.argsort(dim=1, stable=True)[:, -(self.sinks + self.window) :].sort(dim=1).values
        self.positions = self.positions.gather(1, keep)
        self.valid = self.valid.gather(1, keep)
        index = keep[:, None, :, None]
        for stored in (self.keys, self.values):
            for i, x in enumerate(stored):
                assert x is not None  # every layer has seen these tokens
                stored[i] = x.gather(2, index.expand(-1, x.shape[1], -1, x.shape[3]))

    # What transformers asks of a cache.

    def get_seq_length(self, layer_idx: int = 0, *_, **__) -> int:
        return self.seen

    def get_max_cache_shape(self, *_, **__) -> int:
        return -1

    def get_max_length(self) -> None:
        return None

    def get_mask_sizes(self, cache_position, layer_idx: int = 0) -> tuple[int, int]:
        length = cache_position if isinstance(cache_position, int) else cache_position.shape[0]
        return self.seen + length, 0

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * len(self.keys)

    @property
    def is_initialized(self) -> bool:
        return self.positions is not None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rearranges the sequences after a step of beam search."""
        self._apply(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._apply(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._apply(lambda x: x[indices])

    def _apply(self, f) -> None:
        for stored in (self.keys, self.values):
            stored[:] = [None if x is None else f(x) for x in stored]
        for name in ("positions", "valid", "tokens"):
            if getattr(self, name) is not None:
                setattr(self, name, f(getattr(self, name)))
        if self.vision is not None:
            self.vision = (f(self.vision[0]), f(self.vision[1]))
        if self.memory is not None:
            self.memory = MemoryState(*(f(x) for x in self.memory))
        if self.carry is not None:
            self.carry = QueryCarry(*(f(x) for x in self.carry))


def own_cache(cache, past_key_values=None) -> BitMarCache | None:
    """The cache that was given under either name; TypeError for one that keeps only keys and values."""
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("`cache` and `past_key_values` are two names of one argument: give one of them")
    given = past_key_values if cache is None else cache
    if given is not None and not isinstance(given, BitMarCache):
        raise TypeError(
            f"a BitMar keeps its picture, memory and query in the cache too, so a {type(given).__name__} will not do: "
            "leave the argument out, or pass model.new_cache()"
        )
    return given
