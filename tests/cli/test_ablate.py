"""`bitmar ablate memory`: a table, a file, and an error that says which data to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.evaluate.tasks import memory


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No costs, and no data but that of the test."""
    monkeypatch.setattr(memory, "speed", lambda models: [])
    monkeypatch.setattr(memory, "peak_rss", lambda models: memory.Measure("RAM", "r", "MB", "lower", _ones(), _one()))
    monkeypatch.delenv("BITMAR_DATA", raising=False)


def _one() -> Any:
    import numpy as np

    return np.ones(1)


def _ones() -> dict[str, Any]:
    return {"on": _one(), "off": _one()}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [{"sentence_good": f"A dog {i}.", "sentence_bad": f"Dog a {i}."} for i in range(5)] + [{"sentence_good": 1}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_table_a_file_and_what_was_skipped(cli: Callable[..., Any], model: Path, pairs: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out/ablate.json", tmp_path / "out/table.md"
    arguments = ["--model", model, "--blimp", pairs, "--json", out, "--markdown", table, "--limit", 2]
    result = cli("ablate", "memory", *arguments)
    assert result.exit_code == 1, result.output  # a line was left out
    found = json.loads(out.read_text())
    assert [row["task"] for row in found["rows"]] == ["grammar", "RAM"]
    assert found["left_out"] == {"long documents": "no --text", "captions, recall": "no --data"}
    assert [entry["name"].endswith("pairs.jsonl:6") for entry in found["skipped"]] == [True]
    assert table.read_text().startswith("| task |") and "pairs.jsonl:6" in result.stderr
    assert "minimal pairs" in result.stdout and "left out, long documents" in result.stdout


def test_json_alone_on_stdout(cli: Callable[..., Any], model: Path, pairs: Path) -> None:
    result = cli("ablate", "memory", "--model", model, "--blimp", pairs, "--json", "-")
    assert json.loads(result.stdout)["seeds"] == 3


def test_without_data_it_says_what_to_give(fails: Callable[..., str], model: Path) -> None:
    line = fails("ablate", "memory", "--model", model)
    assert all(name in line for name in ("--data", "--text", "--blimp", "BITMAR_DATA"))


def test_a_missing_file_is_named(fails: Callable[..., str], model: Path, tmp_path: Path) -> None:
    assert "nothing.txt" in fails("ablate", "memory", "--model", model, "--text", tmp_path / "nothing.txt")
