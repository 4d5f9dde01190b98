"""The picture of confidence, from what `bitmar eval naming --json` writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, FormatError
from bitmar.evaluate.figure import plain
from bitmar.evaluate.tasks.naming import evaluate_naming

pytest.importorskip("matplotlib", reason="pictures need bitmar[plots]")

from bitmar.plots.canvas import save
from bitmar.plots.confidence import draw_confidence, read_naming


def test_both_curves_are_drawn(tmp_path: Path) -> None:
    sure = np.linspace(0.05, 0.95, 40).tolist()
    captions = ["A dog." if chance > 0.5 else "A cat." for chance in sure]
    report = evaluate_naming(captions, ["dog"] * 40, sure)
    (tmp_path / "n.json").write_text(json.dumps({"model": "m.bitmar", **plain(report)}))
    found = read_naming(tmp_path / "n.json")
    assert found["by_coverage"]["50%"] == 1.0 and found["by_coverage"]["100%"] == 0.5
    save(draw_confidence("Confidence of m", found), tmp_path / "c.svg")
    text = (tmp_path / "c.svg").read_text()
    assert "40 photos" in text and "Right as often as it says?" in text and "50 % right" in text


def test_other_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "n.json"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_naming(path)
    for text in ("{", "[]", '{"task": "caption"}'):
        path.write_text(text)
        with pytest.raises(FormatError, match="eval naming --json"):
            read_naming(path)
    path.write_text(json.dumps(plain(evaluate_naming(["A dog."], ["dog"]))))
    with pytest.raises(ConfigError, match="calibrate-captions"):
        read_naming(path)
