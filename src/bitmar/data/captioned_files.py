"""Captioned photos as people keep them: a folder with a text beside each photo, or a table; and shards, as ever."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bitmar.core.errors import DataError
from bitmar.core.formats import SUFFIXES
from bitmar.core.strict_json import parse_json
from bitmar.data.sources import CaptionedPhoto, OnBad, iter_webdataset
from bitmar.data.text import near_path, reading

_TABLES = (".csv", ".jsonl")


def iter_captioned(sources: Iterable[str], on_bad: OnBad) -> Iterator[CaptionedPhoto]:
    """The photos of several sources, those without captions too.

    A source is a folder, whose photos, in all folders below it, have captions in NAME.txt or NAME.jpg.txt beside them,
    one a line (only in the latter where photos differ in nothing but their suffix: whose NAME.txt is cannot be known);
    a table, .csv or .jsonl, with `photo` and `caption` as `bitmar caption` writes it, whose paths hold from here or
    from the table's folder; or WebDataset shards. Unusable photos go to `on_bad` and are skipped. A source that is
    not there is a DataError.
    """
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from _folder(path, on_bad)
        elif path.suffix.lower() in _TABLES:
            yield from _table(path, on_bad)
        else:
            yield from iter_webdataset([source], on_bad)


def _folder(root: Path, on_bad: OnBad) -> Iterator[CaptionedPhoto]:
    photos = sorted(_photos_below(root, on_bad))
    if not photos:
        raise DataError(f"no photo in {root}: name a folder of photos with a .txt beside each, a table or shards")
    stems = Counter(photo.with_suffix("") for photo in photos)
    for photo in photos:
        try:
            captions = _sidecar(photo, alone=stems[photo.with_suffix("")] == 1)
        except ValueError as error:
            on_bad(str(photo), str(error))
            continue
        except OSError as error:
            on_bad(str(photo), f"its .txt cannot be read: {error.strerror or error}")
            continue
        yield from _photo(photo, captions, on_bad)


def _photos_below(root: Path, on_bad: OnBad) -> Iterator[Path]:
    def closed(error: OSError) -> None:
        on_bad(str(error.filename), f"cannot be read: {error.strerror}")

    for folder, below, files in os.walk(root, onerror=closed):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (
            Path(folder, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        )


def _sidecar(photo: Path, alone: bool) -> list[str]:
    """alone: no other photo differs in its suffix only. Raises OSError, and ValueError for what is no caption of it."""
    own, shared = photo.with_name(f"{photo.name}.txt"), photo.with_suffix(".txt")
    if not own.is_file() and not alone and shared.is_file():
        raise ValueError(f"{shared.name} may be another photo's: call it {own.name}")
    for path in (own, shared):
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"its .txt cannot be read: not UTF-8 at byte {error.start}") from None
            if "\0" in text:
                raise ValueError("its .txt cannot be read: it holds NUL bytes, as UTF-16 does; it must be UTF-8")
            return text.splitlines()
    return []


def _table(table: Path, on_bad: OnBad) -> Iterator[CaptionedPhoto]:
    """Rows of one photo, wherever they stand, are captions of one photo."""
    found: dict[Path, list[str]] = {}
    for number, photo, caption in _rows(table, on_bad):
        path = next((path for path in (Path(photo), table.parent / photo) if os.path.isfile(path)), None)
        if path is None:
            on_bad(f"{table}:{number}", f"no photo {photo:.200}{near_path(table.parent / photo)}")
            continue
        found.setdefault(path, []).append(caption)
    for path, captions in found.items():
        yield from _photo(path, captions, on_bad)


def _rows(table: Path, on_bad: OnBad) -> Iterator[tuple[int, str, str]]:
    """(line, photo, caption) of every row that has both."""
    with reading(table), open(table, encoding="utf-8-sig", newline="") as file:
        try:
            values = csv.DictReader(file) if table.suffix.lower() == ".csv" else _json_lines(file)
            for number, row in enumerate(values, 1):
                photo, caption = (row.get(name) if isinstance(row, dict) else None for name in ("photo", "caption"))
                if isinstance(photo, str) and isinstance(caption, str) and photo and "\0" not in photo:
                    yield number, photo, caption
                else:
                    on_bad(f"{table}:{number}", 'has no "photo" and "caption" that are text')
        except (ValueError, csv.Error) as error:
            raise DataError(f"{table} cannot be read as a table: {error}") from None


def _json_lines(lines: Iterable[str]) -> Iterator[object]:
    for line in lines:
        try:
            yield parse_json(line)
        except ValueError:
            yield None


def _photo(path: Path, captions: Iterable[str], on_bad: OnBad) -> Iterator[CaptionedPhoto]:
    try:
        image = path.read_bytes()
    except OSError as error:
        on_bad(str(path), f"cannot be read: {error.strerror}")
        return
    yield CaptionedPhoto(str(path), image, tuple(text for text in captions if text.strip()))
