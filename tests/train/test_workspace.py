"""Caches belong to the shards they were made from."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bitmar.core.errors import DataError
from bitmar.train.workspace import Workspace


def write(path: Path, *colours: str) -> str:
    with tarfile.open(path, "w") as tar:
        for number, colour in enumerate(colours):
            file = io.BytesIO()
            Image.new("RGB", (9, 9), colour).save(file, "PNG")
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = file.tell()
            file.seek(0)
            tar.addfile(entry, file)
    return str(path)


def test_a_shard_replaced_under_its_name_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    recipe = SimpleNamespace(cache=str(tmp_path / "cache"), checkpoints=None, tower={"image_size": 32})
    workspace = Workspace(recipe)  # type: ignore[arg-type]
    patterns = (write(tmp_path / "a.tar", "red", "blue"),)
    assert len(workspace.photos("train", patterns)) == 2
    os.utime(patterns[0], (1, 1))  # a copy of the same
    assert len(workspace.photos("train", patterns)) == 2
    write(tmp_path / "a.tar", "red", "white")
    with pytest.raises(DataError, match="sources changed"):
        workspace.photos("train", patterns)
    write(tmp_path / "a.tar", "red", "blue")
    assert len(workspace.photos("train", patterns)) == 2


def test_what_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    workspace = Workspace(SimpleNamespace(cache=str(tmp_path), checkpoints=None))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no shard"):
        workspace.check((str(tmp_path / "x.tar"),), {})
    with pytest.raises(DataError, match="no text"):
        workspace.check((), {"book": str(tmp_path / "x.txt")})
