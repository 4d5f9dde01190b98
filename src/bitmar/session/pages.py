"""Where a session memory's bytes live: a file on a card that may fail at any moment, or RAM.

Bytes are fetched and stored in place and never through a mapping: a card that is pulled out is then an error to
report, where a mapping would end the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from bitmar.core.errors import MemoryBusyError, MemoryFileError
from bitmar.core.files import sync_folder

_LOCKED_BYTE = 1 << 40  # where Windows, whose locks forbid reading, puts ours: far past any file's end
_OWNER_ONLY = 0o600
_PAUSE = 0.02  # seconds between two tries to get the lock

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
    errno.ENOTDIR: "no such folder",
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

    def replace(self, data: bytes | bytearray) -> None:
        """All bytes at once: whoever looks finds the old ones or these. The lock stays."""
        ...

    def lock(self) -> None:
        """Become the one writer, creating an empty file where there is none."""
        ...

    def renew(self) -> bool:
        """Let go of what is no longer the file of this name, or belongs to another process: True, and nothing is open
        or locked. Raises MemoryFileError for the writer of a file that was taken away.
        """
        ...

    def close(self) -> None: ...


class RamPages:
    """A memory that lasts as long as the program."""

    name = "memory in RAM"

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None: ...

    def replace(self, data: bytes | bytearray) -> None:
        self.data = bytearray(data)

    def lock(self) -> None: ...

    def renew(self) -> bool:
        return False

    def close(self) -> None: ...


class FilePages:
    """A file, opened for reading at first use and for writing at `lock`, which waits up to `wait` seconds.

    The path holds wherever the program goes. Files that it makes are their owner's alone. Every fault is a
    MemoryFileError.
    """

    def __init__(self, path: str | Path, *, wait: float = 0.0) -> None:
        if "\0" in str(path):
            raise MemoryFileError(f"{str(path)!r}: no file can be called so")
        self.path, self.name, self.wait = Path(os.path.abspath(path)), str(path), wait
        self._file: BinaryIO | None = None
        self._locked = False
        self._process = 0  # that opened the file

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
            _write_all(self._file, data)

    def sync(self) -> None:
        assert self._file is not None
        with self._faults():
            os.fsync(self._file.fileno())

    def replace(self, data: bytes | bytearray) -> None:
        assert self._locked
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        with self._faults():
            try:
                file = _open(temporary, os.O_EXCL)
                try:
                    _lock(file)  # so that nobody comes between
                    _write_all(file, data)
                    os.fsync(file.fileno())
                    if sys.platform == "win32":  # which renames no open file
                        file.close()
                        self.close()
                    os.replace(temporary, self.path)
                except BaseException:
                    file.close()
                    raise
            except BaseException:  # Ctrl-C too must leave no debris
                temporary.unlink(missing_ok=True)
                raise
            sync_folder(self.path.parent)
        if sys.platform == "win32":
            self.lock()
        else:
            self._hold(file)

    def lock(self) -> None:
        if self._locked:
            return
        deadline = time.monotonic() + self.wait
        with self._faults():
            while (file := self._try_lock()) is None:
                if time.monotonic() >= deadline:
                    raise MemoryBusyError(
                        f"{self.name}: another program is writing this memory: wait until it has ended, or close it "
                        "there (`--wait SECONDS`, or wait=SECONDS, waits for it)"
                    )
                time.sleep(random.uniform(0.5, 1.5) * _PAUSE)  # or two that wait would meet again and again
        self._hold(file)
        self._locked = True

    def renew(self) -> bool:
        if self._file is None:
            return False
        if self._process != os.getpid():  # a fork shares its parent's lock and place in the file
            self.close()
            return True
        with self._faults():
            if self._is_named(self._file):
                return False
        writing = self._locked
        self.close()
        if writing:
            raise MemoryFileError(
                f"{self.name}: was deleted, moved or replaced while it was being written, and what was remembered in "
                "it went with it: remember it again, which goes into the file that is there now, or a new one"
            )
        return True

    def close(self) -> None:
        self._hold(None)
        self._locked = False

    def _try_lock(self) -> BinaryIO | None:
        """The file, made where there is none, and locked; None while it is another's."""
        created = not self._is_there()
        file = _open(self.path)
        try:
            _lock(file)
            if self._is_named(file):
                if created:
                    sync_folder(self.path.parent)
                return file
        except BlockingIOError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _is_named(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _reading(self) -> BinaryIO | None:
        if self._file is None and self._is_there():
            self._hold(self.path.open("rb", buffering=0))  # what a disk gives is final
        return self._file

    def _is_there(self) -> bool:
        try:
            kind = os.stat(self.path).st_mode
        except FileNotFoundError:
            return False
        if stat.S_ISFIFO(kind):  # which would be waited for, for ever
            raise MemoryFileError(f"{self.name}: is a pipe: name a file")
        return True

    def _hold(self, file: BinaryIO | None) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()  # lets go of the lock, too
        self._file, self._process = file, os.getpid()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = _WHAT_TO_DO.get(error.errno or 0, error.strerror or str(error))
            raise MemoryFileError(f"{self.name}: {reason}") from error


def _open(path: Path, flags: int = 0) -> BinaryIO:
    """For reading and writing, unbuffered, made for its owner alone where there is none."""
    flags |= os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, _OWNER_ONLY), "r+b", 0)


def _write_all(file: BinaryIO, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:  # an unbuffered file may take less than all at once
        left = left[file.write(left) :]


def _lock(file: BinaryIO) -> None:
    """Take the lock or raise BlockingIOError. The system gives it back when the process ends, however it ends."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EAGAIN, "locked") from error
        file.seek(0)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
