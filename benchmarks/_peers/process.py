"""The parent's end of a contender: its processes, and the questions to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from _peers import Contender
from bitmar.core.config import ModelConfig
from bitmar.core.errors import BitMarError

_FOLDER = Path(__file__).resolve().parents[1]
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BITMAR_THREADS"), "1"
)


def build(contender: Contender, config: ModelConfig, capacity: int, folder: Path) -> Path:
    """Write the contender's file. Raises BitMarError with the reason if it cannot take part."""
    with Process(contender, "build", folder, config, capacity, folder) as process:
        return Path(process.read())


class Process:
    """A running contender; a context manager that ends it. Raises BitMarError with its last words when it fails.

    task and path: as the worker takes them. capacity: of the KV cache, tokens. logs: a folder for what it prints.
    """

    def __init__(
        self, contender: Contender, task: str, path: Path, config: ModelConfig, capacity: int, logs: Path
    ) -> None:
        self.contender, self.detail = contender, ""
        self.errors = logs / f"{contender.name}-{task}.log"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "_peers.worker", contender.name, task, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=_FOLDER,
                env={**os.environ, **_ONE_THREAD},
            )
        self._write({"config": config.to_dict(), "capacity": capacity})

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self, prompt: int, steps: int) -> dict[str, Any]:
        """(seconds, CPU seconds) of "prefill", a prompt of N tokens, and of "decode", the steps; "peak_rss"."""
        self._write({"prompt": prompt, "steps": steps})
        found = self.read()
        self.detail = found["detail"]
        return found

    def read(self) -> Any:
        """The next answer."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.process.wait()
        raise BitMarError(self._reason())

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise BitMarError(self._reason()) from None

    def _reason(self) -> str:
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        last = lines[-1] if lines else f"ended with status {self.process.returncode}"
        if "ModuleNotFoundError" in last:
            return f"{last.partition(': ')[2]}: pip install {' '.join(self.contender.packages)}"
        return last[:300]
