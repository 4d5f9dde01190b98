"""The state of generation between tokens: the ring of keys and values with sinks, and all running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from .memory import MemoryState, QueryCarry


class Written(NamedTuple):
    """The writes of one forward to the memory: where, and the states between.

    ends: column of each segment's last token, -1 where a sequence wrote nothing (B, S). slots, usage: the states before
    the first write, after it, ... (B, S + 1, K, C), (B, S + 1, K).
    """

    ends: Tensor
    slots: Tensor
    usage: Tensor


class BitMarCache(DynamicCache):
    """Keys and values of the first S and the last W tokens in every layer of both stacks; constant size for ever.

    It also carries the image's keys and values in the fusion, the memory's state and the running query, so that a
    cached step and a full forward compute the same thing. Keys are stored unrotated (see `attention.py`).

    A column is a token of every sequence, padding included. `crop` takes the newest columns back. Once the ring has
    let go of tokens that needs `activate_past_recording` beforehand, as generation with an assistant does by itself:
    from then on they are kept until the next `crop`.
    """

    is_compileable = False

    def __init__(self, num_layers: int, sinks: int, window: int) -> None:
        # The base class manages layers of its own; this cache replaces them, so its constructor has nothing to build.
        self.sinks, self.window = sinks, window
        self.layers: list[Any] = []
        self.keys: list[Tensor | None] = [None] * num_layers
        self.values: list[Tensor | None] = [None] * num_layers
        self.recording = False
        self.reset()

    def reset(self) -> None:
        """Forgets everything, the picture and the memory too."""
        self.vision: tuple[Tensor, Tensor] | None = None
        self.image_mask: Tensor | None = None  # (B,) bool, False for a sequence without a picture
        self.memory: MemoryState | None = None
        self._forget_tokens()

    def _forget_tokens(self) -> None:
        self.keys[:] = self.values[:] = [None] * len(self.keys)
        self.positions: Tensor | None = None  # (B, n) position of every cached token
        self.valid: Tensor | None = None  # (B, n) False on padding
        self.seen = 0  # columns seen, padding included: what transformers calls the sequence length
        self.floor = 0  # `seen` when columns were last evicted: there is no way back before it
        self.tokens: Tensor | None = None  # (B,) tokens seen, padding not included
        self.carry: QueryCarry | None = None  # of every cached token
        self.written: list[Written] = []

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"BitMarCache(layers={len(self)}, sinks={self.sinks}, window={self.window}, seen={self.seen})"

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Appends (B, h, T, d_h) and returns all that a query of this call may see."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if keys is not None and values is not None:
            key_states = torch.cat((keys, key_states), dim=2)
            value_states = torch.cat((values, value_states), dim=2)
        self.keys[layer_idx], self.values[layer_idx] = key_states, value_states
        return key_states, value_states

    def extend(self, positions: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Registers the new tokens' positions (B, T) and validity (B, T); returns those of all cached tokens."""
        tokens = valid.sum(1)
        if self.positions is not None and self.valid is not None:
            positions = torch.cat((self.positions, positions), dim=1)
            valid = torch.cat((self.valid, valid), dim=1)
        self.positions, self.valid = positions, valid
        self.tokens = tokens if self.tokens is None else self.tokens + tokens
        return positions, valid

    def remember_queries(self, carry: QueryCarry) -> None:
        """Appends what the running mean was after each of the new tokens."""
        if self.carry is not None:
            carry = QueryCarry(*(torch.cat(pair, dim=1) for pair in zip(self.carry, carry, strict=True)))
        self.carry = carry

    def remember_writes(self, ends: Tensor, before: MemoryState, after: MemoryState) -> None:
        """Notes the writes of this forward: `ends` (B, S) within it, the states before each, and the last one."""
        self.memory = after
        if bool((ends >= 0).any()):  # most steps write nothing, and states are large
            states = (torch.cat((x, y.unsqueeze(1)), dim=1) for x, y in zip(before, after, strict=True))
            self.written.append(Written(torch.where(ends >= 0, ends + self.seen, ends), *states))

    def evict(self, new_tokens: int) -> None:
        """Ends a forward: keeps the sinks and the W newest tokens of every sequence."""
        self.seen += new_tokens
        if not self.recording:
            self._evict()

    def _evict(self) -> None:
        if self.positions is None or self.valid is None or self.positions.shape[1] <= self.sinks + self.window:
            return
        # Padding stands on the left, so sequences of a batch have their sinks in different columns.
        sink = self.valid & (self.positions < self.sinks)
        last = self.positions[:, -1:]
        recent = self.valid & (self.positions > last - self.window)
        order = (sink | recent).to(torch.int8)
        keep = order.argsort(dim=1, stable=True)[:, -(self.sinks + self.window) :].sort(dim=1).values
        self._columnwise(lambda x, dim: x.gather(dim, _spread(keep, x, dim)))
        self.floor = self.seen
        self.written.clear()

    # What transformers asks of a cache.

    def activate_past_recording(self) -> None:
        """From now on nothing is evicted but in `crop`, so that it can go back past the ring's edge."""
        self.recording = True

    def crop(self, max_length: int) -> None:
        """Takes the newest columns back: keys, query and memory become what they were before them.

        Args:
            max_length: columns to keep, or, at 0 or below, minus the number of columns to take away.
        Raises:
            RuntimeError: the ring has already let go of tokens that the shorter sequence would see. Nothing changes.
        """
        drop = -max_length if max_length <= 0 else self.seen - max_length
        drop = max(0, min(drop, self.seen))
        if drop and self.positions is not None:
            self._take_back(drop)
        if self.recording:
            self._evict()

    def _take_back(self, drop: int) -> None:
        assert self.positions is not None and self.valid is not None and self.tokens is not None
        target, left = self.seen - drop, self.positions.shape[1] - drop
        if target < self.floor:
            raise RuntimeError(
                f"cannot take {drop} tokens back: the cache keeps {self.sinks} sinks and {self.window} recent tokens, "
                "and those before them are gone. Call cache.activate_past_recording() before the tokens that may be "
                "taken back, or start again from a new cache"
            )
        self._restore_memory(target)
        if target == 0:
            self._forget_tokens()
            return
        self.tokens = self.tokens - self.valid[:, left:].sum(1)
        self.seen = target
        self._columnwise(lambda x, dim: x.narrow(dim, 0, left))

    def _restore_memory(self, target: int) -> None:
        """The memory as it was when `target` columns had been seen."""
        for entry in reversed(self.written):
            undone = entry.ends >= target
            if not bool(undone.any()):
                continue
            kept = ((entry.ends >= 0) & ~undone).sum(1)  # (B,) writes of this forward that stay
            rows = torch.arange(len(kept), device=kept.device)
            self.memory = MemoryState(entry.slots[rows, kept], entry.usage[rows, kept])
        self.written = [w._replace(ends=w.ends.masked_fill(w.ends >= target, -1)) for w in self.written]

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        return self.seen

    def get_max_cache_shape(self, *_: Any, **__: Any) -> int:
        return -1

    def get_max_length(self, *_: Any, **__: Any) -> int:
        return -1

    def get_mask_sizes(self, cache_position: int | Tensor, layer_idx: int = 0) -> tuple[int, int]:
        length = cache_position if isinstance(cache_position, int) else cache_position.shape[0]
        return self.seen + length, 0

    @property
    def batch_size(self) -> int:
        return -1 if self.positions is None else len(self.positions)

    @property
    def is_sliding(self) -> list[bool]:
        return [False] * len(self.keys)

    @property
    def is_initialized(self) -> bool:
        return self.positions is not None

    @property
    def is_croppable(self) -> bool:
        return True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rearranges the sequences after a step of beam search."""
        self._rowwise(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._rowwise(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._rowwise(lambda x: x[indices])

    def _columnwise(self, f: Callable[[Tensor, int], Tensor]) -> None:
        """f(x, dim) for everything that has an entry per column."""
        for stored in (self.keys, self.values):
            stored[:] = [None if x is None else f(x, 2) for x in stored]
        for name in ("positions", "valid"):
            if getattr(self, name) is not None:
                setattr(self, name, f(getattr(self, name), 1))
        if self.carry is not None:
            self.carry = QueryCarry(*(f(x, 1) for x in self.carry))

    def _rowwise(self, f: Callable[[Tensor], Tensor]) -> None:
        for stored in (self.keys, self.values):
            stored[:] = [None if x is None else f(x) for x in stored]
        for name in ("positions", "valid", "tokens", "image_mask"):
            if getattr(self, name) is not None:
                setattr(self, name, f(getattr(self, name)))
        if self.vision is not None:
            self.vision = (f(self.vision[0]), f(self.vision[1]))
        if self.memory is not None:
            self.memory = MemoryState(*(f(x) for x in self.memory))
        if self.carry is not None:
            self.carry = QueryCarry(*(f(x) for x in self.carry))
        self.written = [Written(*(f(x) for x in entry)) for entry in self.written]


def _spread(keep: Tensor, x: Tensor, dim: int) -> Tensor:
    """Indices (B, n) as `gather` wants them for x along `dim`."""
    shape = [1] * x.dim()
    shape[0], shape[dim] = keep.shape
    return keep.view(shape).expand([n if i not in (0, dim) else -1 for i, n in enumerate(x.shape)])


def own_cache(cache: Any, past_key_values: Any = None) -> BitMarCache | None:
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
