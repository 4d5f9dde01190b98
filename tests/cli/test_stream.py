"""`bitmar stream` reads to the end, or to the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitmar

Cli = Callable[..., Any]
TEXT = "A dog runs.\nThe man sits on a chair.\n" * 40


def test_figures_of_a_file(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    result = cli("stream", tmp_path / "text.txt", "--model", model, "--every", 100, "--json", tmp_path / "out.json")
    assert result.exit_code == 0 and "perplexity" in result.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    loaded = bitmar.load(model)
    ids = [loaded.config.bos_token_id, *loaded.tokenizer.encode(TEXT, add_special_tokens=False).ids]
    scores = loaded.score_ids(ids)
    assert document["tokens"] == len(scores)
    assert sum(row["log_probability"] for row in document["passages"]) == pytest.approx(scores.sum(), rel=0.01)
    assert [row["tokens"] for row in document["passages"][:2]] == [100, 200]
    assert all(row["ms_per_token"] > 0 for row in document["passages"])


def test_a_limit_and_an_empty_text(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "empty.txt").write_text("")
    limited = cli("stream", tmp_path / "text.txt", "--model", model, "--every", 50, "--limit", 120, "--json", "-")
    assert json.loads(limited.stdout)["tokens"] == 150
    assert "empty" in cli("stream", tmp_path / "empty.txt", "--model", model).stderr
