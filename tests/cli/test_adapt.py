"""`bitmar adapt`: what is printed, the exit status, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

for package in ("torch", "transformers", "pycocoevalcap"):
    pytest.importorskip(package, reason="adapting needs bitmar[train,eval]")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("The dog runs over the grass.")
    return folder


def test_the_table_and_the_document(cli: Callable[..., Any], trained: Path, photos: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "mine.bitmar", ("--epochs", 6, "--threads", 1)
    result = cli("adapt", photos, "--model", trained, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert "7 photos trained on, 5 held out" in result.stdout and "CIDEr, higher is better" in result.stdout
    assert "before: " in result.stdout and f"--model {out}" in result.stderr
    (photos / "bad.txt").write_text("A dog.")
    (photos / "bad.png").write_bytes(b"none")
    result = cli("adapt", photos, "--model", trained, "--out", out, *options, "--json", "--force")
    assert result.exit_code == 1 and "skipped" in result.stderr
    report = json.loads(result.stdout)
    assert report["after"]["perplexity"] < report["before"]["perplexity"] and not report["worse"]
    assert list(report["skipped"]) == [str(photos / "bad.png")] and report["settings"]["epochs"] == 6


def test_worse_is_a_warning_and_a_status(cli: Callable[..., Any], trained: Path, photos: Path, tmp_path: Path) -> None:
    good, out = tmp_path / "good.bitmar", tmp_path / "mine.bitmar"
    assert cli("adapt", photos, "-m", trained, "-o", good, "--epochs", 6, "--threads", 1).exit_code == 0
    result = cli("adapt", photos, "-m", good, "-o", out, "--epochs", 1, "--learning-rate", 9, "--threads", 1)
    assert result.exit_code == 1 and "got worse" in result.stderr and "--force" in result.stderr
    assert not out.exists()


def test_an_error_in_one_line(fails: Callable[..., str], trained: Path, photos: Path, tmp_path: Path) -> None:
    assert "heldout" in fails("adapt", photos, "-m", trained, "-o", tmp_path / "x.bitmar", "--heldout", 2)
