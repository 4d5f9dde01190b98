"""`bitmar tokenizer` and `bitmar features`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("The dog runs over the grass.\n" * 40)
    return path


def test_a_tokenizer_is_trained_and_described(cli: Cli, book: Path, shard: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    result = cli("tokenizer", "train", out, "--text", f"dogs={book}", "--captions", shard, "--size", 270, "--json")
    report = json.loads(result.stdout)
    assert report["vocab_size"] == 270 and set(report["bytes_per_token"]) == {"dogs", "captions"}
    found = json.loads(cli("tokenizer", "info", out, "--text", book, "--json").stdout)
    assert found["special"] == {"pad": 0, "bos": 1, "eos": 2, "image": 3}
    assert found["bytes_per_token"] == report["bytes_per_token"]["dogs"]
    text = cli("tokenizer", "info", out).stdout
    assert "270 entries" in text and "bos: 1 <bos>" in text


def test_the_tokenizer_of_a_packed_model(cli: Cli, model: Path) -> None:
    assert "260 entries" in cli("tokenizer", "info", model).stdout


def test_too_small_a_vocabulary(fails: Callable[..., str], book: Path, tmp_path: Path) -> None:
    assert "at least 260" in fails("tokenizer", "train", tmp_path / "t", "--text", book, "--size", 100)


def test_features_skip_by_name_and_are_not_made_twice(cli: Cli, trained: Path, shard: Path, tmp_path: Path) -> None:
    arguments = ["features", shard, tmp_path / "features", "--tower", f"bitvit:{trained / 'joint'}", "--views", 2]
    result = cli(*arguments)
    assert result.exit_code == 1, result.output  # a photo is skipped
    assert "4 photos" in result.stderr and "1 skipped: things-00000/002" in result.stderr.replace("\n", " ")
    stored = tmp_path / "features" / "features-00000.npy"
    before = stored.stat().st_mtime_ns
    again = json.loads(cli(*arguments, "--json").stdout)
    assert again["photos"] == 4 and again["views"] == 2 and again["grid"] == 2 and again["dim"] == 10
    assert [line["name"] for line in again["skipped"]] == ["things-00000/002"]
    assert stored.stat().st_mtime_ns >= before


def test_another_tower_needs_another_folder(
    fails: Callable[..., str], cli: Cli, trained: Path, shard: Path, tmp_path: Path
) -> None:
    arguments = ["features", shard, tmp_path / "features", "--tower", f"bitvit:{trained / 'joint'}"]
    assert cli(*arguments).exit_code == 1  # a photo is skipped
    assert "views" in fails(*arguments, "--views", 3)
