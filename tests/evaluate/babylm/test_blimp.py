"""BLiMP and its supplement on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from bitmar.evaluate.babylm.blimp import blimp, supplement
from bitmar.evaluate.babylm.work import Work
from bitmar.evaluate.blimp import evaluate_blimp, read_pairs


def lines(count: int, good: str, bad: str, **more: str) -> list[dict[str, str]]:
    return [{"sentence_good": f"{good} {i}", "sentence_bad": f"{bad} {i}", **more} for i in range(count)]


def test_blimp_is_the_mean_over_phenomena(write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path) -> None:
    syntax = {"UID": "island", "field": "syntax", "linguistics_term": "island_effects"}
    write(tmp_path / "island.jsonl", lines(9, "good", "bad", **syntax))
    write(tmp_path / "passive.jsonl", lines(1, "bad", "good", **{**syntax, "UID": "passive", "field": "semantics"}))
    found = blimp(fond("good"), tmp_path, Work())["blimp"]
    assert found.score == 0.5 and found.n == 10 and found.ties == 0
    assert {name: part.accuracy for name, part in found.parts["field"].items()} == {"semantics": 0, "syntax": 1}
    assert blimp(fond("none"), tmp_path, Work())["blimp"].ties == 10


def test_the_supplement_is_grouped_by_file(
    write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path
) -> None:
    write(tmp_path / "hypernym.jsonl", lines(3, "good", "bad"))
    write(tmp_path / "turn_taking.jsonl", [*lines(1, "good", "bad"), *lines(1, "bad", "good")])
    found = supplement(fond("good"), tmp_path, Work())["blimp_supplement"]
    assert found.score == 0.75 and set(found.parts["UID"]) == {"hypernym", "turn_taking"}


def test_it_is_the_score_of_the_module_for_blimp(
    write: Callable[..., Path], judge: Callable[..., Any], tmp_path: Path
) -> None:
    scorer = judge(lambda pieces, _: [-float(crc32("".join(pieces).encode()) % 7)])
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.jsonl", lines(20, f"good {name}", f"bad {name}", UID=name, field="syntax"))
    whole = evaluate_blimp(scorer, read_pairs(tmp_path))
    found = blimp(scorer, tmp_path, Work())["blimp"]
    assert found.score == pytest.approx(whole.accuracy) and found.ties == whole.pairs.ties
