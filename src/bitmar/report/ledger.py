"""Results measured earlier: a file for each section of each model, valid until the model or its data change."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from bitmar import __version__
from bitmar.core.files import write_atomically
from bitmar.evaluate.scorer import RuntimeScorer
from bitmar.evaluate.tasks.babylm.run import model_checksum
from bitmar.report.job import PEER, Contestant, Job
from bitmar.report.sections import Section


class Ledger:
    """Results in a folder, each under a key: model, data, version, limit and figures' sources."""

    def __init__(self, folder: Path, figures: Path) -> None:
        self._folder, self._figures = folder, figures
        folder.mkdir(parents=True, exist_ok=True)

    def stem(self, section: Section, contestant: Contestant) -> Path:
        """The path of a job's unfinished work; its result lies beside it."""
        name = re.sub(r"[^\w.-]+", "-", contestant.key).strip("-")[-60:]
        mark = hashlib.sha256(contestant.key.encode()).hexdigest()[:6]  # two names may end alike
        return self._folder / (f"{section.name}-{name}" if name == contestant.key else f"{section.name}-{name}-{mark}")

    def find(self, job: Job) -> dict[str, Any] | None:
        """The finished result of exactly this job, if there is one and its picture is still there."""
        try:
            stored = json.loads(_result(job.partial).read_text(encoding="utf-8"))
            result: dict[str, Any] = stored["result"]
            same = stored["key"] == json.loads(json.dumps(job.task))
            picture = result["measured"].get("picture")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged: measured again
            return None
        return result if same and (picture is None or (self._figures / picture).is_file()) else None

    def begun(self, job: Job) -> bool:
        """Whether an interrupted run has left something to go on from."""
        return any(path.is_file() for path in _partials(job.partial))

    def put(self, job: Job, result: dict[str, Any]) -> None:
        """Keep a finished result; its unfinished work is deleted."""
        text = json.dumps({"key": job.task, "result": result}, indent=1, ensure_ascii=False)
        write_atomically(_result(job.partial), text.encode())
        for path in _partials(job.partial):
            path.unlink(missing_ok=True)


def _result(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.result.json")


def _partials(stem: Path) -> list[Path]:
    return [stem.with_name(stem.name + suffix) for suffix in (".log", ".json")]


def key(section: Section, job: Job, files: list[Path]) -> dict[str, Any]:
    """All that a result depends on."""
    return {
        "section": section.name,
        "bitmar": __version__,
        "model": fingerprint(job.contestant),
        "limit": job.limit,
        "files": {str(path): job.data.sha256(path) for path in files},
    }


def fingerprint(contestant: Contestant) -> str:
    """Which model this is, and what computes it."""
    if contestant.role == PEER:
        return f"hub {contestant.source} {model_checksum(str(contestant.source)) or ''}".strip()
    scorer = contestant.scorer
    if isinstance(scorer, RuntimeScorer):
        return f"{scorer.model.engine.name} {scorer.model.container.checksum}"
    return f"torch {model_checksum(scorer.name)}"
