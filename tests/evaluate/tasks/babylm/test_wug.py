"""Nonce words on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.evaluate.tasks.babylm.wug import adjectives, model_ratio, past_tense
from bitmar.evaluate.work import Work


@pytest.fixture(autouse=True)
def scipy() -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")


def test_the_ratio_is_a_softmax() -> None:
    assert model_ratio(np.array([-700.0, -700.0 - np.log(3)])) == pytest.approx(0.75)
    assert model_ratio(np.log(np.array([1.0, 2.0, 5.0]))) == pytest.approx(1 / 8)


@pytest.mark.parametrize(("task", "name"), [(adjectives, "wug_adj"), (past_tense, "wug_past")])
def test_agreement_with_people(
    task: Callable[..., Any], name: str, write: Callable[..., Path], judge: Callable[..., Any], tmp_path: Path
) -> None:
    """The model's ratios are 1 - ratio of people, in other steps: the ranks are turned round."""
    lines = [{"sentences": f"{'a' * i}ity\t{'a' * i}ness", "ratio": i / 20} for i in range(1, 21)]
    write(tmp_path / "wug.jsonl", lines)
    rule = lambda pieces, _: [-float("".join(pieces).count("a")) if "ity" in "".join(pieces) else 0.0]  # noqa: E731
    found = task(judge(rule), tmp_path, Work())[name]
    found = found.figure
    assert found.value == pytest.approx(-1) and found.n == 20 and found.ties == 0 and found.chance == 0
    indifferent = task(judge(lambda pieces, _: [-1.0]), tmp_path, Work())[name]
    assert np.isnan(indifferent.figure.value) and indifferent.figure.ties == 20


def test_bad_lines_are_named(write: Callable[..., Path], judge: Callable[..., Any], tmp_path: Path) -> None:
    good = [{"sentences": f"{'a' * i}\tb", "ratio": i / 9} for i in range(1, 9)]
    path = write(tmp_path / "wug.jsonl", [*good, {"sentences": "only one", "ratio": 1}, {"sentences": "a\tb"}])
    bad: list[str] = []
    found = adjectives(
        judge(lambda pieces, _: [-float(len("".join(pieces)))]),
        tmp_path,
        Work(on_bad=lambda name, why: bad.append(name)),
    )
    assert found["wug_adj"].figure.n == 8 and bad == [f"{path}:9", f"{path}:10"]
