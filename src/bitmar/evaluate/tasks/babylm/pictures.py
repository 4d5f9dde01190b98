"""The photographs of VQA and Winoground, which the pipeline takes from the Hub, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitmar.core.errors import DataError
from bitmar.data.sources import IMAGE_SUFFIXES


def pictures_of(source: Path) -> Path:
    """The folder `images` of a task, beside its .jsonl or its .zip. Missing: DataError."""
    folder = (source if source.is_dir() else source.with_suffix("")) / "images"
    if not folder.is_dir():
        raise DataError(f"the pictures are missing: put them into {folder}, named as docs/babylm.md says")
    return folder


def find_picture(folder: Path, names: Sequence[str]) -> Path:
    """The file that has one of the names, with any ending of a picture; the likeliest path if there is none."""
    for name in names:
        for suffix in IMAGE_SUFFIXES:
            path = folder / f"{name}.{suffix}"
            if path.is_file():
                return path
    return folder / f"{names[0]}.jpg"
