"""COMPS on known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitmar.evaluate.tasks.babylm.comps import comps, decode
from bitmar.evaluate.work import Work

LINE = {"prefix_acceptable": "A dog", "prefix_unacceptable": "A table", "property_phrase": "can run over the grass."}


def test_the_property_alone_is_scored() -> None:
    choice = decode(LINE, "comps_wugs_dist-in-between")
    assert choice.options == ("A dog can run over the grass.", "A table can run over the grass.")
    assert choice.starts == (len("A dog "), len("A table ")) and choice.uid == "wugs_dist_in_between"


def test_the_prefix_does_not_count(write: Callable[..., Path], judge: Callable[..., Any], tmp_path: Path) -> None:
    write(tmp_path / "comps_base.jsonl", [LINE] * 3)
    write(tmp_path / "comps_wugs.jsonl", [LINE])
    longer = judge(lambda pieces, _: [-1.0] * len(pieces))  # a longer prefix would cost more
    found = comps(longer, tmp_path, Work())["comps"]
    assert found.figure.ties == 4 and found.figure.value == 0.5 and set(found.parts["UID"]) == {"base", "wugs"}
    rule = lambda pieces, _: [0.0] * (len(pieces) - 1) + [-float("table" in "".join(pieces))]  # noqa: E731
    assert comps(judge(rule), tmp_path, Work())["comps"].figure.value == 1
