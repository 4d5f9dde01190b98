"""The episodes of a session that a model reads: all, as long as it has a slot for each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from bitmar.core.config import ModelConfig
from bitmar.core.container import Container
from bitmar.core.ternary import F32
from bitmar.runtime.layers import Weights
from bitmar.runtime.memory import EpisodicMemory, MemoryState
from bitmar.session.layout import Ints
from bitmar.session.reader import MemoryReader

_M_0 = "model.memory.slots"  # what an empty slot holds


class Reading(NamedTuple):
    """The slots that a model reads. source (K,): for each of its slots, the slot of the session read there, or its own
    number where it holds M_0.
    """

    state: MemoryState
    source: Ints


class SlotReader:
    """The K slots of a model, M_0 with the episodes in their places.

    Of more episodes than K, those K that eq. 2 would weigh the most if it read them all.
    """

    def __init__(self, file: MemoryReader, container: Container, config: ModelConfig) -> None:
        self._file, self._container, self._config = file, container, config
        self._all: Reading | None = None  # where every episode is read, whatever the query
        self._version = -1  # of the file, for which that holds

    def reading(self, query: Callable[[], F32] | None) -> Reading:
        """query: gives the model's q (C,) by which to choose; without it those are chosen that were used last."""
        if self._version != self._file.version:
            self._all, self._version = None, self._file.version
        if self._all is not None:
            return self._all
        room, live = self._config.memory_slots, self._file.live()
        if len(live) > room:
            chosen = self._most_read(live, room, query)
            return self._placed(chosen, self._file.resident("value").rows[chosen])
        self._all = self._placed(live, self._file.column("value", live))
        return self._all

    def _placed(self, chosen: Ints, values: F32) -> Reading:
        """These episodes in their own places; those of slots that the model does not have in places that are left."""
        room = self._config.memory_slots
        places, homeless = chosen.copy(), chosen >= room
        places[homeless] = np.setdiff1d(np.arange(room), chosen)[: np.count_nonzero(homeless)]
        slots: F32 = self._container.tensors[_M_0].copy()
        slots[places] = values
        usage: F32 = np.full(room, self._file.usage_after(np.zeros(1, np.uint64)))  # of what was never used
        usage[places] = self._file.usage()[chosen]
        source = np.arange(room)
        source[places] = chosen
        return Reading(MemoryState(slots[None], usage[None]), source)

    def _most_read(self, live: Ints, count: int, query: Callable[[], F32] | None) -> Ints:
        """The slots of the largest w of eq. 2 over all episodes, ascending."""
        values = self._file.resident("value").follow().rows[: live[-1] + 1]
        usage = self._file.usage()[: len(values)]
        q = np.zeros(values.shape[1], np.float32) if query is None else query()
        weights = self.memory.read_weights(q[None, None], MemoryState(values[None], usage[None]))[0, 0, live]
        most: Ints = np.sort(live[np.argpartition(-weights, count - 1)[:count]])
        return most

    @cached_property
    def memory(self) -> EpisodicMemory:
        return EpisodicMemory(Weights(self._container), self._config)
