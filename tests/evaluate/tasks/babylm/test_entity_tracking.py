"""Entity tracking on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.evaluate.tasks.babylm.entity_tracking import entity_tracking, split_weights
from bitmar.evaluate.work import Work


def line(operations: int, right: str = "the dog") -> dict[str, Any]:
    options = [" the dog.", " the man.", " the grass.", " green.", " nothing."]
    options.sort(key=lambda option: right not in option)
    return {"input_prefix": "Box 0 contains", "options": options, "numops": operations}


def test_operations_first_then_splits(write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path / "regular.jsonl", [line(0), line(0), line(1, "the man")])
    write(tmp_path / "move_contents.jsonl", [line(0)])
    found = entity_tracking(fond("the dog"), tmp_path, Work())["entity_tracking"]
    assert found.figure.value == pytest.approx(((1 + 0) / 2 + 1) / 2)  # not the mean of three, and not of four items
    assert found.figure.chance == pytest.approx(0.2) and found.figure.n == 4
    assert set(found.parts["UID"]) == {"regular_0_ops", "regular_1_ops", "move_contents_0_ops"}
    alike = entity_tracking(fond("none"), tmp_path, Work())["entity_tracking"]
    assert alike.figure.value == pytest.approx(0.2) and alike.figure.ties == 4


def test_weights_make_one() -> None:
    weights = split_weights(["regular_0_ops", "regular_1_ops", "ambiref_0_ops", "move_contents_5_ops"])
    assert sum(weights.values()) == pytest.approx(1) and weights["regular_0_ops"] == pytest.approx(1 / 6)
