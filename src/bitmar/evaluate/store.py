"""Results that have already been paid for, so that a killed run goes on where it was; and which model they are of."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bitmar.core.errors import DataError, OutputError
from bitmar.core.files import write_atomically
from bitmar.core.locks import sole_writer

if TYPE_CHECKING:
    from bitmar.evaluate.peer import Peer
    from bitmar.evaluate.protocol import Scorer

_CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json")


class Store:
    """Keys and their results, a JSON line each, in a file that grows. `found[key]` is what an earlier run has put.

    task: what the results depend on besides their keys (model, options), ready for JSON. A store of another task, or a
    damaged one, is begun anew, and `replaced` says so: its results would not be this one's. Half a line, left by a
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

    def finish(self) -> None:
        """Forget everything: what it was for is done, and the file goes with `close`."""
        self.found.clear()

    def close(self) -> None:
        """Make everything durable, and let another process write. A store without results leaves no file."""
        with self._held:
            if not self.found:
                self._file.close()
                self.path.unlink(missing_ok=True)
                return
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise OutputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def checksum(scorer: Scorer | Peer) -> str | None:
    """SHA-256 of a model: as its `.bitmar` file records it, or of a checkpoint's files. None for one in no file."""
    packed = getattr(getattr(scorer, "model", None), "container", None)
    if packed is not None:
        return str(packed.checksum)
    path = Path(scorer.name)
    files = [path] if path.is_file() else [path / name for name in _CHECKPOINT if (path / name).is_file()]
    return sha256(*files) if files else None


def fingerprint(scorer: Scorer) -> str:
    """Which model this is, and what computes it: a result is of another model where this is another."""
    engine = getattr(getattr(scorer, "model", None), "engine", None)
    name = type(scorer).__name__ if engine is None else engine.name
    return f"{name} {checksum(scorer) or f'in memory {id(scorer)}'}"


def sha256(*paths: Path) -> str:
    """Of the contents of files, one after the other. Raises DataError."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def keep(path: Path, key: dict[str, Any], result: Any) -> None:
    """Write a finished result, with all that it depends on. Raises OutputError."""
    write_atomically(path, json.dumps({"key": key, "result": result}, indent=1, ensure_ascii=False).encode())


def kept(path: Path, key: dict[str, Any]) -> Any:
    """The finished result that depends on exactly this; None if there is none, or it is damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return stored["result"] if stored["key"] == json.loads(json.dumps(key)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
