"""Where a session memory's bytes live: a file on a card that may fail at any moment, or RAM.

Bytes are fetched and stored in place and never through a mapping: a card that is pulled out is then an error to
report, where a mapping would end the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from bitmar.core.errors import MemoryBusyError, MemoryFileError
from bitmar.core.files import sync_folder

_LOCKED_BYTE = 1 << 40  # where Windows, whose locks forbid reading, puts ours: far behind any file's end

_WHAT_TO_DO = {
    errno.ENOSPC: "the disk is full: free some space and try again, what was stored before is safe",
    errno.EDQUOT: "the disk quota is used up: free some space and try again, what was stored before is safe",
    errno.EROFS: "the disk is read-only: it can be recalled from, but not written",
    errno.EACCES: "not allowed: check the permissions of the file and its folder",
    errno.EPERM: "not allowed: check the permissions of the file and its folder",
    errno.EIO: "the disk does not answer, or was removed: put it back and open the memory again",
    errno.ENODEV: "the disk was removed: put it back and open the memory again",
    errno.ENXIO: "the disk was removed: put it back and open the memory again",
    errno.ESTALE: "the disk was removed: put it back and open the memory again",
    errno.ENOENT: "no such folder",
    errno.EISDIR: "is a folder: name a file in it",
}


class Pages(Protocol):
    """A row of bytes in which a write may be lost, or torn, until `sync` has returned."""

    name: str

    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes than asked where the file ends."""
        ...

    def write(self, offset: int, data: bytes) -> None: ...

    def sync(self) -> None:
        """Return when everything written so far survives a power cut."""
        ...

    def lock(self) -> None:
        """Become the one writer, creating an empty file where there is none."""
        ...

    def close(self) -> None: ...


class RamPages:
    """A memory that lasts as long as the program."""

    name = "memory in RAM"

    def __init__(self) -> None:
        self.data = bytearray()

    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None: ...

    def lock(self) -> None: ...

    def close(self) -> None: ...


class FilePages:
    """A file, opened for reading at first use and for writing at `lock`. Every fault is a MemoryFileError."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.name = Path(path), str(path)
        self._file: BinaryIO | None = None
        self._locked = False

    def size(self) -> int:
        with self._faults():
            file = self._reading()
            return os.fstat(file.fileno()).st_size if file else 0

    def read(self, offset: int, length: int) -> bytes:
        with self._faults():
            file = self._reading()
            if file is None:
                return b""
            file.seek(offset)
            return file.read(length)

    def write(self, offset: int, data: bytes) -> None:
        assert self._locked and self._file is not None
        with self._faults():
            self._file.seek(offset)
            left = memoryview(data)
            while left:  # an unbuffered file may take less than all at once
                left = left[self._file.write(left) :]

    def sync(self) -> None:
        assert self._file is not None
        with self._faults():
            os.fsync(self._file.fileno())

    def lock(self) -> None:
        if self._locked:
            return
        with self._faults():
            created = not self.path.exists()
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644), "r+b", 0)
            try:
                _lock(file)
                if not os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    raise MemoryBusyError(f"{self.name}: was replaced just now by another program: try again")
            except BlockingIOError:
                file.close()
                raise MemoryBusyError(
                    f"{self.name}: another program is writing this memory: wait until it has ended, or close it there"
                ) from None
            except BaseException:
                file.close()
                raise
            if created:
                sync_folder(self.path.parent)
        self._replace(file)
        self._locked = True

    def close(self) -> None:
        self._replace(None)
        self._locked = False

    def _reading(self) -> BinaryIO | None:
        if self._file is None and self.path.exists():
            self._file = self.path.open("rb", buffering=0)  # what a disk gives is final
        return self._file

    def _replace(self, file: BinaryIO | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()  # lets go of the lock, too
        self._file = file

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = _WHAT_TO_DO.get(error.errno or 0, error.strerror or str(error))
            raise MemoryFileError(f"{self.name}: {reason}") from error


def _lock(file: BinaryIO) -> None:
    """Take the lock or raise BlockingIOError. The system gives it back when the process ends, however it ends."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EAGAIN, "locked") from error
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
