"""Two tiny models with a tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bitmar import BitMar


@pytest.fixture(scope="module")
def model(make_pair: Callable[..., Any]) -> BitMar:
    return make_pair(tower="two stages").bitmar


@pytest.fixture(scope="module")
def other(make_pair: Callable[..., Any]) -> BitMar:
    """Another model of another width."""
    return make_pair(tower="two stages", memory_dim=10, memory_slots=4).bitmar
