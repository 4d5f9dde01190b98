"""A section of one model: what it reads, what its result depends on, and its measuring, faults included."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitmar import __version__
from bitmar.core.errors import BitMarError, DataError
from bitmar.evaluate.folder import Absent, EvalData
from bitmar.evaluate.paper import TABLE_1
from bitmar.evaluate.peer import Peer, Unreachable
from bitmar.evaluate.scorer import RuntimeScorer, load_scorer
from bitmar.evaluate.store import Store, checksum, fingerprint, keep, kept, sha256
from bitmar.evaluate.tables import OURS, PEER, TEXT
from bitmar.evaluate.task import Task
from bitmar.evaluate.tasks.zero_shot.run import FOLDER
from bitmar.evaluate.work import OnStep, Work, nobody
from bitmar.report.machine import busy

if TYPE_CHECKING:
    from bitmar.evaluate.torch_scorer import TorchScorer

DONE, ABSENT, FAILED, LATER = "done", "absent", "failed", "not run"
_FORMAT = 2  # of results; a change of their keys raises it, and what is kept is measured again
_TORCH = 6.0  # how much slower than the native engine the estimate takes PyTorch to be


@dataclass(frozen=True)
class Contestant:
    """A model in the report. role: OURS, TEXT, BASELINE or PEER. source: as `load_scorer` takes it; of a peer, its name
    on the Hub. title: of its column."""

    role: str
    source: str | None
    title: str

    @property
    def key(self) -> str:
        """Its name in report.json: the role, with the source where there can be several."""
        return self.role if self.role in (OURS, TEXT) else f"{self.role} {self.source}"

    @cached_property
    def scorer(self) -> RuntimeScorer | TorchScorer | Peer:
        """The loaded model, which it stays; a peer loads itself when it is asked. Raises what `load_scorer` raises."""
        return Peer(str(self.source)) if self.role == PEER else load_scorer(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """Which model this is, and what computes it."""
        if isinstance(self.scorer, Peer):
            return f"hub {self.source} {checksum(self.scorer) or ''}".strip()
        return fingerprint(self.scorer)

    def about(self) -> dict[str, Any]:
        """As report.json has it; a peer is not loaded for that."""
        about = {"key": self.key, "role": self.role, "title": self.title, "source": self.source}
        if self.role == PEER:
            return {**about, "name": self.source}
        name = Path(self.scorer.name)
        return {
            **about,
            "name": name.name if name.suffix else "/".join(name.parts[-2:]),
            "scorer": type(self.scorer).__name__,
            "fingerprint": self.fingerprint,
        }


@dataclass
class Job:
    """A task as a section of one contestant's report. work: the folder of results; figures: of pictures."""

    task: Task
    contestant: Contestant
    data: EvalData
    limit: int | None
    work: Path
    figures: Path
    on_step: OnStep = nobody
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The task's, with the model's where that is not the one which the report is about."""
        role, title = self.contestant.role, self.contestant.title
        return self.task.title if role == OURS else f"{self.task.title} ({title})"

    @property
    def seconds(self) -> float:
        """Estimated seconds on two idle cores."""
        native = isinstance(self.contestant.scorer, RuntimeScorer)
        return self.task.estimate(self.limit) * (1.0 if native else _TORCH)

    def known(self) -> dict[str, Any] | None:
        """The finished result, or the reason why there can be none; None: to be measured."""
        try:
            found = kept(self._file(".result.json"), self._key)
        except Absent as error:
            return {"status": ABSENT, "message": str(error)}
        except (BitMarError, OSError) as error:
            return {"status": FAILED, "message": " ".join(str(error).split())}
        if not isinstance(found, dict) or not isinstance(measured := found.get("measured"), dict):
            return None
        picture = measured.get("picture")
        return found if picture is None or (self.figures / picture).is_file() else None

    def measure(self) -> dict[str, Any]:
        """The result, which is kept, or why there is none."""
        log = self._file(".log")
        resumed, load, begun = log.is_file(), busy(), time.perf_counter()
        try:
            measured = self._run(log)
        except (Absent, Unreachable) as error:
            return {"status": ABSENT, "message": str(error), "skipped": self.skipped}
        except (BitMarError, OSError) as error:
            return {"status": FAILED, "message": " ".join(str(error).split()), "skipped": self.skipped}
        except Exception as error:  # a fault of ours must not cost the sections that are still to come
            place = self._file(".traceback.txt")
            place.write_text(traceback.format_exc(), encoding="utf-8")
            message = f"a fault of this program, {type(error).__name__}: {error} (see {place})"
            return {"status": FAILED, "message": message, "skipped": self.skipped}
        result = {
            "status": DONE,
            "measured": measured,
            "seconds": round(time.perf_counter() - begun, 1),
            "resumed": resumed,
            "load": load,
            "files": self._key["files"],
            "model": self._key["model"],
            "skipped": self.skipped,
        }
        keep(self._file(".result.json"), self._key, result)
        log.unlink(missing_ok=True)
        return result

    def command(self) -> str:
        """As one line for a shell. A missing input is named by a word in capitals."""
        source = self.contestant.source
        if self.contestant.role == PEER:
            return (
                f"lm_eval --model hf --model_args pretrained={shlex.quote(str(source))} "
                f"--include_path {_short(FOLDER)} --tasks {','.join(TABLE_1)}"
            )
        line = self.task.line if "{" in self.task.line else f"{self.task.line} {{model}} {{options}} {{limit}}"
        try:
            options = self._options
        except (BitMarError, OSError):
            given = signature(self.task.run).parameters.values()
            options = {each.name: each.name.upper() for each in given if each.default is Parameter.empty}
            options = {name: value for name, value in options.items() if name not in ("scorer", "work")}
        values = {
            "model": "" if source is None else f"--model {shlex.quote(source)}",
            "source": shlex.quote(str(self.data.run or source or "bundled")),
            "options": _flags(options),
            "limit": "" if self.limit is None or "limit" in options else f"--limit {self.limit}",
            "finetuned": shlex.quote(str(self.data.finetuned or "DIR")),
            "folder": f"--data {shlex.quote(str(self.data.folder))}",
        }
        return " ".join(line.format_map(values).split())

    def described(self, result: dict[str, Any]) -> dict[str, Any]:
        """A result with its title and its command, as report.json has it."""
        return {**result, "title": self.title, "command": self.command()}

    @cached_property
    def _options(self) -> dict[str, Any]:
        """Of the task's `run`; maybe with a limit of the section's own. Raises Absent."""
        if self.task.sees and not self.contestant.scorer.has_tower:
            raise Absent("the model has no vision tower and cannot see photos")
        return {**self.task.files(self.data), **self.task.sizes(self.limit)}

    @cached_property
    def _key(self) -> dict[str, Any]:
        """All that a result depends on."""
        return {
            "section": self.task.name,
            "format": _FORMAT,
            "bitmar": __version__,
            "model": self.contestant.fingerprint,
            "limit": self.limit,
            "files": {str(path): _digest(path) for path in self.task.reads(self._options)},
        }

    def _run(self, log: Path) -> dict[str, Any]:
        options = dict(self._options)
        limit = options.pop("limit", self.limit)

        def run(store: Store | None) -> dict[str, Any]:
            work = Work(limit, store, self.figures, self._skip, self.on_step)
            return self.task.run(self.contestant.scorer, work, **options)

        if self.task.kept is None:
            return run(None)
        with Store(log, self._key) as store:
            found = run(store)
        if self.task.parts and not any(part["status"] == DONE for part in found.values()):
            raise DataError("; ".join(part["message"] for part in found.values()))
        return found

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.setdefault(name, reason)

    def _file(self, suffix: str) -> Path:
        key = self.contestant.key
        name = re.sub(r"[^\w.-]+", "-", key).strip("-")[-60:]
        mark = hashlib.sha256(key.encode()).hexdigest()[:6]  # two names may end alike
        stem = f"{self.task.name}-{name}" if name == key else f"{self.task.name}-{name}-{mark}"
        return self.work / (stem + suffix)


def _flags(options: Mapping[str, Any]) -> str:
    pairs = [
        (name, each) for name, value in options.items() for each in (value if isinstance(value, list) else [value])
    ]
    return " ".join(
        f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in pairs if value is not None
    )


def _short(path: Path) -> str:
    """As seen from the repository's root, where the package lies in one."""
    parts = path.parts
    return "/".join(parts[parts.index("src") :]) if "src" in parts else str(path)


def _digest(path: Path) -> str:
    about = path.stat()
    return _hashed(path, about.st_size, about.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, time: int) -> str:
    return sha256(path)
