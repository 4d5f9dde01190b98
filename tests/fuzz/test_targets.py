"""A short run of every fuzz target, the same each time and without atheris: `make fuzz` is the long one."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from bitmar.core.errors import BitMarError

from .changes import scramble
from .targets import TARGETS

INPUTS = 300
NEEDS = {"recipe": "yaml"}


@pytest.mark.filterwarnings("ignore")  # Pillow and numpy comment on broken input
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_whatever_comes_in_ends_in_an_answer_or_an_error_of_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS and not importlib.util.find_spec(NEEDS[name]):
        pytest.skip(f"needs {NEEDS[name]}")
    monkeypatch.setattr("os.fsync", lambda _: None)
    target, rng, refused = TARGETS[name](tmp_path), random.Random(0), 0
    for seed in target.seeds:
        target.one_input(seed)  # good ones are taken
    pool = list(target.seeds)
    for _ in range(INPUTS):
        data = target.mutate(rng.choice(pool), rng, lambda piece: scramble(piece, rng))[: target.max_bytes]
        if rng.random() < 0.2:
            pool.append(data)
        try:
            target.one_input(data)
        except BitMarError as error:
            str(error).encode()
            refused += 1
        except Exception as error:
            found = tmp_path / "finding"
            found.write_bytes(data)
            raise AssertionError(f"{type(error).__name__} by the input in {found}: {data[:200]!r}") from error
    assert refused > INPUTS / 20, "the changes are too small to be noticed"
