"""Writing a file so that a kill or a full disk leaves either the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from bitmar.core.errors import OutputError


def shown(text: str) -> str:
    """A text with a file's name in it, which may be no UTF-8, as a text that can be."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_atomically(path: str | Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to a temporary file in the same folder, fsync it and rename it over `path`.

    mode: the permissions, less what the process's umask takes away.
    Raises OutputError if the folder is missing, the disk is full or writing is not allowed; `path` is then
    untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:  # Ctrl-C too must leave no debris
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
