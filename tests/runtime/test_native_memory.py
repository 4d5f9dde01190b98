"""The native memory's write, from a memory whose slots are in use to different degrees, against numpy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitmar.runtime.memory import MemoryState

DECAY = 0.5  # in a memory of eight slots the usual one keeps every usage near 1, where it is cut off


@pytest.mark.parametrize("rule", ["address", "literal"])
def test_one_write_equals_numpys(make_pair: Callable[..., Any], rule: str) -> None:
    pair = make_pair(memory_decay=DECAY, write_rule=rule)
    fast = pair.native()
    tokens = np.random.default_rng(0).integers(4, 276, pair.bitmar.config.memory_segment)
    start = pair.bitmar.engine.memory.initial_state()
    usage = np.array([[0, 0.6, 0, 0.6, 0.3, 0, 0.6, 0.3]], np.float32)
    memory = MemoryState(start.slots, usage)
    # One query for both: what their forwards round differently is no matter of the memory.
    q = fast.engine.start(None, memory).query(tokens)
    expected = pair.bitmar.engine.memory.write(q[None], memory)
    found = fast.engine.start(None, memory).remember(tokens)
    np.testing.assert_allclose(np.squeeze(found.slots), expected.slots[0], atol=1e-5)
    np.testing.assert_allclose(np.squeeze(found.usage), expected.usage[0], atol=1e-5)
    assert (expected.usage < 1).sum() > 4 and np.abs(expected.usage - usage).max() > 0.1
