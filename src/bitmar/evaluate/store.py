"""Results that have already been paid for, a JSON line each, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bitmar.core.errors import DataError, OutputError
from bitmar.core.files import write_atomically
from bitmar.core.locks import sole_writer


class ResultLog:
    """Keys and their results, in a file that grows. `log.found[key]` is what an earlier run has put there.

    task: what the results depend on besides their keys (model, options), ready for JSON. A log of another task, or a
    damaged one, is begun anew, and `log.replaced` says so: its results would not be this one's. Half a line, left by a
    kill, is dropped. Raises DataError if the file cannot be read, OutputError if it cannot be written or another
    process writes it.
    """

    def __init__(self, path: str | Path, task: dict[str, Any]) -> None:
        self.path = Path(path)
        self.found: dict[str, Any] = {}
        self.replaced = ""
        with ExitStack() as held:
            held.enter_context(sole_writer(self.path))
            if self.path.exists():
                self._recover(json.loads(json.dumps(task)))
            lines = [task, *({"key": key, "result": result} for key, result in self.found.items())]
            write_atomically(self.path, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            self._file = held.enter_context(self.path.open("ab", buffering=0))
            self._held = held.pop_all()

    def _recover(self, task: dict[str, Any]) -> None:
        try:
            whole = self.path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            begun, *lines = [json.loads(line) for line in whole] or [None]
            if begun == task:
                self.found = {line["key"]: line["result"] for line in lines}
                return
            begun = begun if isinstance(begun, dict) else {}
        except (ValueError, KeyError, TypeError, RecursionError):
            self.replaced = f"{self.path} was damaged: begun anew"
            return
        other = [name for name in task if begun.get(name) != task[name]] or [name for name in begun if name not in task]
        self.replaced = f"{self.path} was left by a run with another {' and '.join(other)}: begun anew"

    def put(self, key: str, result: Any) -> None:
        """Add a result, ready for JSON; it outlives the process, though not a power cut before `close`.

        Raises OutputError where it cannot be written; the results before it are kept.
        """
        line = json.dumps({"key": key, "result": result}).encode() + b"\n"
        size = 0
        try:
            size = os.fstat(self._file.fileno()).st_size
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(size)
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; what is done is kept: the same command goes on"
            ) from error
        self.found[key] = result

    def close(self) -> None:
        """Make everything durable, and let another process write."""
        with self._held:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def __enter__(self) -> ResultLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
