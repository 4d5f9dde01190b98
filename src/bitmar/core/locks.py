"""One writer at a time: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bitmar.core.errors import OutputError


@contextlib.contextmanager
def sole_writer(path: str | Path) -> Iterator[None]:
    """While the body runs, no other process gets here with the same `path`, a file or a folder that may not exist yet.

    The lock is held on a file `.NAME.lock` beside it, which goes at the end. Raises OutputError at once where another
    process (or thread) has it.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open(lock)
    except BlockingIOError:
        raise OutputError(f"{path} is being written by another process: let it end, or name another file") from None
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps an open file
                lock.unlink()


def _open(lock: Path) -> BinaryIO:
    while True:
        file = lock.open("ab")
        try:
            _lock(file)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                    return file
        except BaseException:
            file.close()
            raise
        file.close()  # the writer before us removed the file between our two steps


def _lock(file: BinaryIO) -> None:
    """Raises BlockingIOError if another has it. A file system without locks gives none."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
        return
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return
