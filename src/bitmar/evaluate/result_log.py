"""Results that an evaluation has already paid for, a JSON line each, so that a killed one goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from bitmar.core.errors import DataError
from bitmar.core.files import write_atomically


class ResultLog:
    """Keys and their results, in a file that grows. `log.found[key]` is what an earlier run has put there.

    task: what the results depend on besides their keys (model, options), ready for JSON. A log of another task is
    begun anew: its results would not be this one's. Half a line, left by a kill, is dropped. Raises DataError if the
    file cannot be read.
    """

    def __init__(self, path: str | Path, task: dict[str, Any]) -> None:
        self.path = Path(path)
        self.found: dict[str, Any] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._recover(task)
        lines = [task, *({"key": key, "result": result} for key, result in self.found.items())]
        write_atomically(self.path, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._file = self.path.open("ab")

    def _recover(self, task: dict[str, Any]) -> None:
        try:
            whole = self.path.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}") from error
        try:
            begun, *lines = [json.loads(line) for line in whole] or [None]
            if begun == json.loads(json.dumps(task)):
                self.found = {line["key"]: line["result"] for line in lines}
        except (ValueError, KeyError, TypeError):  # no log at all, or damaged: what it held is computed again
            self.found = {}

    def put(self, key: str, result: Any) -> None:
        """Add a result, ready for JSON; it outlives the process, though not a power cut before `close`."""
        self.found[key] = result
        self._file.write(json.dumps({"key": key, "result": result}).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Make everything durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> ResultLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
