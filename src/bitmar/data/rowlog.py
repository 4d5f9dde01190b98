"""Rows of one shape in growing .npy shards plus one JSON line per sample, safe to kill and to resume.

A line is written only after its row, so whatever the index names is on the disk. Opening a folder for
writing cuts off what a kill left half done; the caller then passes over the samples that are already
logged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bitmar.core.errors import DataError, OutputError
from bitmar.core.files import write_atomically
from bitmar.core.strict_json import parse_json

INDEX_NAME = "index.jsonl"


def read_index(folder: Path) -> list[dict[str, Any]]:
    """Every complete line of the folder's index; an unfinished last line (a kill) is left out.

    Rows are numbered as they lie, so that a line which was lost or came twice gives no sample another one's row. Raises
    DataError for that and for any other damage.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    rows = 0
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    for raw in data.split(b"\n")[:-1]:
        try:
            line = parse_json(raw)
            _check_line(line, rows)
        except ValueError as error:
            raise DataError(f"{path}: line {len(lines) + 1} is damaged ({error}); build the folder again") from error
        rows += line["row"] is not None
        lines.append(line)
    return lines


def _check_line(line: Any, row: int) -> None:
    """row: what comes next. Raises ValueError."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), str) or "row" not in line:
        raise ValueError("no key or no row")
    if line["row"] is None:
        if not isinstance(line.get("error", ""), str):
            raise ValueError("its error is no text")
        return
    if type(line["row"]) is not int or line["row"] != row:
        raise ValueError(f"row {line['row']!r:.40} stands where row {row} belongs")
    captions = line.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(text, str) for text in captions):
        raise ValueError("its captions are no list of strings")
    if not isinstance(line.get("meta", {}), dict) or not isinstance(line.get("digest", ""), str):
        raise ValueError("its meta or its digest is of another type")


def open_shards(folder: Path, stem: str, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[np.ndarray]:
    """The folder's `stem-*.npy` shards in order, memory-mapped for reading, each (n, *row_shape).

    Raises DataError for one that is damaged, or missing before another.
    """
    shards = []
    for number, path in enumerate(sorted(folder.glob(f"{stem}-*.npy"))):
        if path.name != f"{stem}-{number:05d}.npy":  # the rows of the next would be taken for its own
            raise DataError(f"{folder} has no {stem}-{number:05d}.npy; build the folder again")
        try:
            shard = np.load(path, mmap_mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise DataError(f"{path} cannot be read ({error}); build the folder again") from error
        if shard.shape[1:] != row_shape or shard.dtype != dtype:
            raise DataError(
                f"{path} holds {shard.dtype} {shard.shape[1:]}, expected {dtype} {row_shape}; build it again"
            )
        shards.append(shard)
    return shards


class RowLog:
    """Append-only writer of `stem-00000.npy`, `stem-00001.npy`, ... and `index.jsonl` in `folder`.

    `append(line, row)` adds a sample with its row (None: a sample without one, such as a broken photo);
    `commit` makes everything appended so far durable. `lines` holds the logged samples, from earlier runs
    too.
    """

    def __init__(
        self, folder: Path, stem: str, row_shape: tuple[int, ...], dtype: np.dtype[Any], rows_per_shard: int
    ) -> None:
        self.folder, self.stem, self.row_shape, self.dtype = folder, stem, row_shape, np.dtype(dtype)
        self.rows_per_shard = rows_per_shard
        self.row_bytes = int(np.prod(row_shape)) * self.dtype.itemsize
        self._shard: BinaryIO | None = None
        self._pending: list[dict[str, Any]] = []
        self._failed = False
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self.lines = self._surviving_lines()
            self.rows = sum(line["row"] is not None for line in self.lines)
            self._drop_unfinished()
            self._index = (folder / INDEX_NAME).open("ab")

    def append(self, line: dict[str, Any], row: np.ndarray | None) -> None:
        if row is None:
            line = {**line, "row": None}
        else:
            if row.shape != self.row_shape or row.dtype != self.dtype:
                raise DataError(f"a row is {row.dtype} {row.shape}, expected {self.dtype} {self.row_shape}")
            line = {**line, "row": self.rows}
            with self._writing():
                self._open_shard().write(np.ascontiguousarray(row).data)
                self.rows += 1
                if self.rows % self.rows_per_shard == 0:
                    self._close_shard()
        self._pending.append(line)
        self.lines.append(line)

    def commit(self) -> None:
        """Rows first, then the header that counts them, then the lines that name them."""
        with self._writing():
            if self._shard is not None:
                self._write_header(self._shard, self.rows % self.rows_per_shard)
                _sync(self._shard)
            for line in self._pending:
                self._index.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._pending.clear()
            _sync(self._index)

    def close(self) -> None:
        """Commit what is left, but after a fault of the disk: which bytes have arrived then, the next run finds out."""
        try:
            if not self._failed:
                self.commit()
        finally:
            for file in (self._shard, self._index):
                if file is not None:
                    with suppress(OSError):  # what it still holds is not committed
                        file.close()
            self._shard = None

    def __enter__(self) -> RowLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A fault of the disk as an OutputError; what was committed before it is found again."""
        try:
            yield
        except OSError as error:
            self._failed = True
            raise OutputError(
                f"cannot write {self.folder}: {error.strerror or error}; what is done is kept: the same call goes on"
            ) from error

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.stem}-{shard:05d}.npy"

    def _write_header(self, file: BinaryIO, count: int) -> None:
        """numpy pads the header so that its length does not depend on the count: it is rewritten in place."""
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        np.lib.format.write_array_header_1_0(
            file,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (count, *self.row_shape),
            },
        )
        file.seek(max(end, file.tell()))

    def _open_shard(self) -> BinaryIO:
        if self._shard is None:
            path = self._path(self.rows // self.rows_per_shard)
            if path.exists():
                self._shard = path.open("r+b")
                self._shard.seek(0, os.SEEK_END)
            else:
                self._shard = path.open("w+b")
                self._write_header(self._shard, 0)
        return self._shard

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._write_header(self._shard, self.rows_per_shard)
        _sync(self._shard)
        self._shard.close()
        self._shard = None

    def _header_bytes(self, file: BinaryIO) -> int:
        file.seek(0)
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        return file.tell()

    def _stored_rows(self) -> Iterator[tuple[Path, int, int]]:
        """(path, header bytes, whole rows that follow) of every shard."""
        for path in sorted(self.folder.glob(f"{self.stem}-*.npy")):
            with path.open("rb") as file:
                try:
                    header = self._header_bytes(file)
                except (ValueError, EOFError):
                    header = 0  # killed before the header was written
            yield path, header, max(0, path.stat().st_size - header) // self.row_bytes if header else 0

    def _surviving_lines(self) -> list[dict[str, Any]]:
        """The lines whose row is on the disk: after a power cut, the index may be ahead of a shard."""
        available = 0
        for _, _, rows in self._stored_rows():
            available += min(rows, self.rows_per_shard)
            if rows < self.rows_per_shard:
                break
        lines = []
        for line in read_index(self.folder):
            if line["row"] is not None and line["row"] >= available:
                break
            lines.append(line)
        return lines

    def _drop_unfinished(self) -> None:
        """Cut shards and index back to the surviving lines."""
        for shard, (path, header, _) in enumerate(list(self._stored_rows())):
            keep = min(max(self.rows - shard * self.rows_per_shard, 0), self.rows_per_shard)
            if keep == 0:
                path.unlink()
                continue
            with path.open("r+b") as file:
                file.truncate(header + keep * self.row_bytes)
                self._write_header(file, keep)
        lines = (json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in self.lines)
        write_atomically(self.folder / INDEX_NAME, b"".join(lines))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
