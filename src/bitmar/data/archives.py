"""Evaluation data as its publishers pack it: a folder, a .zip, a .tar or a single file, read alike and within limits.

Nothing is ever unpacked to the disk. Whatever is wrong with an archive is a DataError that says what to do.
"""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from bitmar.core.errors import DataError
from bitmar.core.strict_json import parse_json
from bitmar.data.sources import OnBad
from bitmar.data.tar import Damage, read_tar

T = TypeVar("T")
Record = Mapping[str, Any]

MAX_FILE = 256 << 20  # bytes of one file, unpacked
MAX_TOTAL = 1 << 30  # of all files of a kind, unpacked
_ENCRYPTED = 0x1  # a member's general purpose flag, bit 0
_PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
# What zipfile and the decompressors raise for broken, encrypted and unknown members.
_UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,  # a password, or a method that is not built in
    NotImplementedError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


@dataclass(frozen=True, slots=True)
class Archive:
    """names: of its files, sorted, as they are called in it."""

    source: Path
    names: tuple[str, ...]
    _read: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """The contents of a file. Raises DataError if there is none of this name, or it is damaged or too large."""
        try:
            data = self._read(name)
        except KeyError:
            raise DataError(f"{self.source} holds no {name}") from None
        except _UNREADABLE as error:
            raise DataError(f"{self.source}: {name} cannot be read ({_reason(error)}): download it again") from error
        if len(data) > MAX_FILE:
            raise DataError(f"{self.source}: {name} has more than the {MAX_FILE >> 20} MiB that a file may have")
        return data

    def label(self, name: str) -> str:
        """The name of one of its files in messages."""
        return str(self.source) if name == "" else f"{self.source}/{name}"


@contextmanager
def open_archive(source: Path) -> Iterator[Archive]:
    """Raises DataError if it cannot be read, is encrypted, or holds names that no honest archive has."""
    if not source.exists():
        raise DataError(f"{source} cannot be read: it is not there")
    if source.is_dir():
        files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
        yield Archive(source, tuple(sorted(files)), lambda name: _head(files[name]))
    elif source.name.endswith(_PACKED[1:]):
        members = _tar(source)
        yield Archive(source, _checked(source, list(members)), members.__getitem__)
    elif source.suffix == ".zip":
        try:
            packed = zipfile.ZipFile(source)
        except _UNREADABLE as error:
            reason = f"{source} cannot be read ({_reason(error)})"
            raise DataError(f"{reason}: download it again, as a whole") from error
        with packed:
            if any(member.flag_bits & _ENCRYPTED for member in packed.infolist()):
                raise DataError(
                    f"{source} is encrypted: unpack it beside itself with `unzip -P PASSWORD {source.name}`; "
                    "the password stands in the README of BabyLM's evaluation pipeline"
                )
            if not all(member.filename for member in packed.infolist()):  # zipfile's is_dir would fail on it
                raise DataError(f"{source} holds a file without a name: download it again, as a whole")
            files_of = [member.filename for member in packed.infolist() if not member.is_dir()]
            yield Archive(source, _checked(source, files_of), lambda name: _unpack(packed, name))
    else:
        yield Archive(source, ("",), lambda name: _head(source))


def read_files(source: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """(label, contents) of every file whose name ends in `suffix`, or of a source that is no archive. Raises DataError.

    A label is the source's path and, in a folder or an archive, the name in it.
    """
    with open_archive(source) as archive:
        yield from _files(archive, suffix)


def _files(archive: Archive, suffix: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    for name in archive.names:
        if name == "" or name.endswith(suffix):
            data = archive.read(name)
            total += len(data)
            if total > MAX_TOTAL:
                raise DataError(f"{archive.source} holds more than the {MAX_TOTAL >> 20} MiB of {suffix} that are read")
            yield archive.label(name), data


def records(archive: Archive, decode: Callable[[Record, str], T], on_bad: OnBad) -> Iterator[tuple[str, T]]:
    """(FILE:LINE, `decode(line, stem of its file)`) of every line of the .jsonl files.

    A line that is no JSON object, or that `decode` refuses with KeyError, TypeError or ValueError, goes to `on_bad` as
    FILE:LINE and is skipped.
    """
    for name, contents in _files(archive, ".jsonl"):
        for number, line in enumerate(contents.splitlines(), 1):
            if not line.strip():
                continue
            label = f"{name}:{number}"
            try:
                values = parse_json(line)
                if not isinstance(values, dict):
                    raise TypeError("no JSON object")
                yield label, decode(values, Path(name).stem)
            except KeyError as error:
                on_bad(label, f"lacks {error}")
            except (TypeError, ValueError) as error:
                on_bad(label, str(error))


def read_records(source: Path, decode: Callable[[Record, str], T], on_bad: OnBad) -> list[T]:
    """The good lines of `records`. Not one of them: DataError."""
    with open_archive(source) as archive:
        items = [item for _, item in records(archive, decode, on_bad)]
    if not items:
        raise DataError(f"{source} holds no line that can be read: download it again")
    return items


def text_of(values: Record, key: str) -> str:
    """A text that must be there. Raises KeyError, TypeError."""
    value = values[key]
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{key!r} is no text")
    return value


def texts_of(values: Record, key: str) -> list[str]:
    """A list of at least one text. Raises KeyError, TypeError."""
    value = values[key]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise TypeError(f"{key!r} is no list of texts")
    return value


def read_rows(label: str, contents: bytes) -> Iterator[tuple[int, list[str]]]:
    """(the line it begins on, its fields) of every row of a .csv, the header among them. Raises DataError."""
    lines = csv.reader(io.StringIO(contents.decode("utf-8-sig", errors="replace"), newline=""))
    begin = 1
    try:
        for row in lines:
            yield begin, row
            begin = lines.line_num + 1
    except csv.Error as error:
        raise DataError(f"{label}:{begin} is no line of a .csv ({error}): download it again") from error


def data_hash(source: Path) -> str:
    """SHA-256 of what a score depends on: names and sizes of all files, and the contents of all but the pictures."""
    digest = hashlib.sha256()
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
    for path in paths:
        digest.update(f"{path.relative_to(source.parent).as_posix()}\0{path.stat().st_size}\0".encode())
        if path.name.endswith((".jsonl", ".csv", *_PACKED)):
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _checked(source: Path, names: list[str]) -> tuple[str, ...]:
    """The names, without what macOS adds."""
    for name, count in Counter(names).items():
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts:
            raise DataError(f"{source} holds {name!r}, which would leave its folder: take it from its publisher")
        if count > 1:
            raise DataError(f"{source} holds two files called {name!r}: take it from its publisher")
    return tuple(sorted(name for name in names if not name.startswith("__MACOSX/")))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE + 1)


def _unpack(packed: zipfile.ZipFile, name: str) -> bytes:
    if packed.getinfo(name).file_size > MAX_FILE:
        raise ValueError(f"it unpacks to more than the {MAX_FILE >> 20} MiB that a file may have")
    with packed.open(name) as member:
        return member.read(MAX_FILE + 1)


def _tar(source: Path) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    total = 0
    with source.open("rb") as file:
        for item in read_tar(file):
            if isinstance(item, Damage):
                raise DataError(f"{source} cannot be read ({item.reason}): download it again")
            if item.name in members:
                raise DataError(f"{source} holds two files called {item.name!r}: take it from its publisher")
            total += len(item.data)
            if total > MAX_TOTAL:
                raise DataError(f"{source} unpacks to more than the {MAX_TOTAL >> 20} MiB that are read")
            if not item.skipped:
                members[item.name] = item.data
    return members


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
