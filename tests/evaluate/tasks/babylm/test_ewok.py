"""EWoK on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitmar.evaluate.tasks.babylm.ewok import decode, ewok
from bitmar.evaluate.work import Work

LINE = {
    "Domain": "spatial-relations",
    "ContextType": "direct",
    "ContextDiff": "antonym",
    "TargetDiff": "concept swap",
    "Context1": "The box is left of the dog.",
    "Context2": "The box is right of the dog.",
    "Target1": "The dog is right of the box.",
    "Target2": "The dog is left of the box.",
}


def test_the_first_context_stands_before_both_targets() -> None:
    choice = decode(LINE, "spatial-relations")
    assert choice.options == (f"{LINE['Context1']} {LINE['Target1']}", f"{LINE['Context1']} {LINE['Target2']}")
    assert choice.starts == (len(LINE["Context1"]),) * 2 and choice.uid == "spatial-relations"


def test_domains_are_averaged(write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path) -> None:
    wrong = {**LINE, "Target1": LINE["Target2"], "Target2": LINE["Target1"], "Domain": "social", "ContextType": "other"}
    write(tmp_path / "a.jsonl", [LINE, LINE, LINE, wrong])
    found = ewok(fond("dog is right"), tmp_path, Work())["ewok"]
    assert found.figure.value == 0.5 and found.figure.n == 4 and found.figure.chance == 0.5
    assert {name: part.n for name, part in found.parts["context_type"].items()} == {"direct": 3, "other": 1}


def test_a_line_without_a_target_is_named(write: Callable[..., Path], fond: Callable[..., Any], tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [LINE, {**LINE, "Target2": ""}])
    bad: list[str] = []
    found = ewok(fond("right"), tmp_path, Work(on_bad=lambda name, why: bad.append(name)))["ewok"]
    assert found.figure.n == 1 and bad == [f"{path}:2"]
