"""`bitmar read` reads to the end, or to the limit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bitmar

Cli = Callable[..., Any]
TEXT = "A dog runs.\nThe man sits on a chair.\n" * 40


def test_figures_of_a_file(cli: Cli, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    result = cli("read", tmp_path / "text.txt", "--model", model, "--every", 100, "--json", tmp_path / "out.json")
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
    limited = cli("read", tmp_path / "text.txt", "--model", model, "--every", 50, "--limit", 120, "--json", "-")
    assert json.loads(limited.stdout)["tokens"] == 150
    assert "empty" in cli("read", tmp_path / "empty.txt", "--model", model).stderr


def test_segments_are_remembered(cli: Cli, model: Path, tmp_path: Path) -> None:
    """Two episodes: 256 tokens, and the rest."""
    home = tmp_path / "home.mem"
    text = TEXT[:370]
    options = ["read", "--model", model, "--every", 100, "--json", "-"]
    (tmp_path / "text.txt").write_text(text)
    result = cli(*options, tmp_path / "text.txt", "--memory", home, "--remember")
    assert result.exit_code == 0 and "2 of 4 slots hold an episode" in result.stderr
    kept = bitmar.load(model).memory(home).inspect()
    assert text.startswith(kept[1].text) and text.strip().endswith(kept[0].text)
    frozen = json.loads(cli(*options, tmp_path / "text.txt").stdout)["passages"]
    alone = json.loads(cli(*options, tmp_path / "text.txt", "--remember").stdout)["passages"]
    for rows in (json.loads(result.stdout)["passages"], alone):
        assert rows[0]["log_probability"] == pytest.approx(frozen[0]["log_probability"], abs=1e-3)
        assert abs(rows[-1]["log_probability"] - frozen[-1]["log_probability"]) > 0.01
    # Without being asked it only reads, and needs a memory that is there.
    cli(*options, tmp_path / "text.txt", "--memory", home)
    assert len(bitmar.load(model).memory(home)) == 2


def test_a_stream_into_no_memory(cli: Cli, fails: Callable[..., str], model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    stream = ["read", tmp_path / "text.txt", "--model", model, "--memory"]
    assert "no such memory" in fails(*stream, tmp_path / "none.mem")
    assert "there is no folder" in fails(*stream, tmp_path / "no" / "home.mem", "--remember")


def test_bytes_that_are_no_text(model: Path) -> None:
    """On stdin, of a process: as a file they are read with replacement characters."""
    command = [sys.executable, "-m", "bitmar", "read", "--model", str(model), "--json", "-"]
    done = subprocess.run(command, input=b"A dog \xff\xfe runs.\n" * 9, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tokens"] > 9 * 6
