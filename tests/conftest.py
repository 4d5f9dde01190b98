"""Fixtures that several folders share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from bitmar.core.config import ModelConfig
from bitmar.core.tensors import expected_tensors, linear_shapes
from bitmar.core.ternary import pack2

# A machine that trains at the same time is slow; slowness is no failure.
settings.register_profile("bitmar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bitmar")

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; a lone clone has none, and the test is skipped."""
    if not _SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the repository: this test needs the real data")
    return _SHARED_DATA


@pytest.fixture(scope="session")
def random_tensors() -> Callable[..., dict[str, np.ndarray]]:
    """random_tensors(config, seed=0) -> what a `.bitmar` file of this configuration may hold."""

    def make(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
        rng, columns = np.random.default_rng(seed), {name: shape[1] for name, shape in linear_shapes(config).items()}
        made: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in expected_tensors(config).items():
            if dtype == "U8":
                made[name] = pack2(rng.integers(-1, 2, (shape[0], columns[name]), dtype=np.int8))
            elif dtype == "I8":
                made[name] = rng.integers(-127, 128, shape, dtype=np.int8)
            else:
                made[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32).reshape(shape)
        return made

    return make
