"""Writing a file so that a kill or a full disk leaves either the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from bitmar.core.errors import OutputError


def shown(text: str) -> str:
    """A text with a file's name in it, which may be no UTF-8, as a text that can be."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_atomically(path: str | Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to a temporary file in the same folder, fsync it and rename it over `path`.

    A link is followed, and stays one. mode: the permissions, less what the process's umask takes away.
    Raises OutputError if the folder is missing, the disk is full, writing is not allowed, or `path` is a folder, a pipe
    or a device; it is then untouched.
    """
    path = Path(path)
    try:
        target = _target(path)
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:  # Ctrl-C too must leave no debris
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise OutputError(f"cannot write {str(path)!r}: {error}") from error
    sync_folder(target.parent)


def _target(path: Path) -> Path:
    """The file that a name stands for. What is no file would be lost under one: /dev/null is such a name."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(target.stat().st_mode):
            raise OutputError(f"cannot write {path}: it is no file, name one")
    return target


def sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
