"""A copy of a run's output at an address that all machines can reach: they may share no disk, or be lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError, DataError, OutputError

MARK = "complete.json"  # of a folder there: its files and their sizes; written last
_COMING = ".coming"  # where a folder is fetched to before it gets its name
_CHECKPOINT = "checkpoint-"


class Mirror:
    """The folder `output` at `url`, any address of fsspec (s3://bucket/run, a path). Raises ConfigError for none."""

    def __init__(self, url: str, output: Path) -> None:
        from fsspec.core import url_to_fs

        self.url, self.output = url.rstrip("/"), output
        try:
            found = url_to_fs(self.url)
        except Exception as error:  # an unknown scheme, a package that is missing
            raise ConfigError(f"checkpoints: {url} cannot be opened: {error}") from None
        self._system: Any = found[0]
        self._root: str = found[1]

    def push(self, path: Path) -> None:
        """Copy a file, or the files of a folder without its folders, there. OutputError where that fails."""
        with self._reporting(OutputError, "written; the copy on this machine is complete"):
            place = self._place(path)
            if path.is_file():
                self._system.put_file(str(path), place)
                return
            files = {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()}
            self._system.makedirs(place, exist_ok=True)
            if self._system.exists(f"{place}/{MARK}"):
                self._system.rm_file(f"{place}/{MARK}")
            for name in files:
                self._system.put_file(str(path / name), f"{place}/{name}")
            self._system.pipe_file(f"{place}/{MARK}", json.dumps(files).encode())

    def push_checkpoint(self, folder: Path) -> None:
        """Copy a checkpoint there, and drop those that are no longer here."""
        self.push(folder)
        with self._reporting(OutputError, "tidied"):
            for step in self._checkpoints(folder.parent):
                if not (old := folder.parent / f"{_CHECKPOINT}{step}").exists():
                    self._system.rm(self._place(old), recursive=True)

    def pull(self, folder: Path) -> None:
        """Fetch a stage's folder: all of it if it is finished there, else the newest complete checkpoint."""
        with self._reporting(DataError, "read"):
            self._system.invalidate_cache()
            if self._files(folder) is not None:
                self._fetch(folder)
            elif steps := self._checkpoints(folder):
                self._fetch(folder / f"{_CHECKPOINT}{max(steps)}")

    def _fetch(self, folder: Path) -> None:
        """A folder that is complete there, unless it is here."""
        files = self._files(folder) or {}
        if all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items()):
            return
        coming = folder.with_name(f"{_COMING}-{folder.name}")
        shutil.rmtree(coming, ignore_errors=True)
        coming.mkdir(parents=True)
        for name in files:
            self._system.get_file(f"{self._place(folder)}/{name}", str(coming / name))
        folder.mkdir(exist_ok=True)
        # What says that a folder is complete comes last.
        for name in sorted(files, key=lambda name: name in ("finished.json", "trainer_state.json")):
            os.replace(coming / name, folder / name)
        coming.rmdir()

    def _files(self, folder: Path) -> dict[str, int] | None:
        mark = f"{self._place(folder)}/{MARK}"
        return json.loads(self._system.cat_file(mark)) if self._system.exists(mark) else None

    def _checkpoints(self, folder: Path) -> list[int]:
        marks = self._system.glob(f"{self._place(folder)}/{_CHECKPOINT}*/{MARK}")
        return [int(str(mark).split("/")[-2].removeprefix(_CHECKPOINT)) for mark in marks]

    def _place(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self.output).as_posix()}"

    @contextmanager
    def _reporting(self, kind: type[DataError] | type[OutputError], what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each file system has errors of its own
            raise kind(
                f"checkpoints: {self.url} cannot be {what}: {getattr(error, 'strerror', None) or error}"
            ) from error
