"""Where the pipeline keeps a task's data, and reading it: folders of .jsonl or .csv, or a .zip of one."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bitmar.core.errors import DataError
from bitmar.data.sources import OnBad

T = TypeVar("T")
Record = Mapping[str, Any]

_ROOTS = ("", "full_eval", "evaluation_data/full_eval", "fast_eval", "evaluation_data/fast_eval")
_ENCRYPTED = 0x1  # a member's general purpose flag, bit 0


def find_source(data: Path, names: Sequence[str]) -> Path | None:
    """The first of the folders (or `NAME.zip`) that is there; `data` is the pipeline's `evaluation_data`, or in it."""
    if data.stem in names and data.exists():
        return data
    for name in names:
        for root in _ROOTS:
            for path in (data / root / name, data / root / f"{name}.zip"):
                if path.exists():
                    return path
    return None


def check_readable(source: Path) -> None:
    """Raises DataError for an archive that is damaged, or encrypted."""
    if source.suffix != ".zip":
        return
    try:
        with zipfile.ZipFile(source) as archive:
            encrypted = any(member.flag_bits & _ENCRYPTED for member in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{source} cannot be read ({_reason(error)}): download it again") from error
    if encrypted:
        raise DataError(
            f"{source} is encrypted: unpack it beside itself with `unzip -P PASSWORD {source.name}`; "
            "the password stands in the README of BabyLM's evaluation pipeline"
        )


def read_files(source: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """(name, contents) of every file of a folder, searched to its depths, or of a .zip. Raises DataError."""
    try:
        if source.is_dir():
            for path in sorted(source.rglob(f"*{suffix}")):
                yield str(path), path.read_bytes()
        else:
            with zipfile.ZipFile(source) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith(suffix) and not name.startswith("__MACOSX/"):
                        yield f"{source}/{name}", archive.read(name)
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{source} cannot be read ({_reason(error)}): download it again") from error


def read_records(source: Path, decode: Callable[[Record, str], T], on_bad: OnBad) -> list[T]:
    """`decode(line, stem of its file)` of every line of the .jsonl files.

    A line that is no JSON object, or that `decode` refuses with KeyError, TypeError or ValueError, goes to `on_bad` as
    FILE:LINE and is skipped. Not one good line: DataError.
    """
    items = []
    for name, contents in read_files(source, ".jsonl"):
        for number, line in enumerate(contents.splitlines(), 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise TypeError("no JSON object")
                items.append(decode(values, Path(name).stem))
            except KeyError as error:
                on_bad(f"{name}:{number}", f"lacks {error}")
            except json.JSONDecodeError as error:
                on_bad(f"{name}:{number}", f"no JSON ({error.msg})")
            except (TypeError, ValueError) as error:
                on_bad(f"{name}:{number}", str(error))
    if not items:
        raise DataError(f"{source} holds no line that can be read: download it again")
    return items


def text_of(values: Record, key: str) -> str:
    """A text that must be there. Raises KeyError, TypeError."""
    value = values[key]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{key!r} is no text")
    return value


def texts_of(values: Record, key: str) -> list[str]:
    """A list of at least one text. Raises KeyError, TypeError."""
    value = values[key]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise TypeError(f"{key!r} is no list of texts")
    return value


def data_hash(source: Path) -> str:
    """SHA-256 of what a score depends on: names and sizes of all files, and the contents of all but the pictures."""
    digest = hashlib.sha256()
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for path in paths:
        digest.update(f"{path.relative_to(source.parent).as_posix()}\0{path.stat().st_size}\0".encode())
        if path.suffix in (".jsonl", ".csv", ".zip"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
