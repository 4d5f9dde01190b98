"""Fixtures that several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
