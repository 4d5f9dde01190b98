"""A report of made-up sections on a made-up model: what is tested is the report, not the measuring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.evaluate.folder import EvalData
from bitmar.evaluate.task import Task
from bitmar.evaluate.work import Work
from bitmar.report import sections as registry
from bitmar.report import write


class FakeScorer:
    """Goes by a file, whose contents are the model."""

    has_tower = True
    vocab_size = 10
    rounding = 0.0
    pictures_at_once = 1

    def __init__(self, name: Path) -> None:
        self.name = str(name)


class Counting:
    """A section that counts its runs and fails on demand."""

    def __init__(self) -> None:
        self.runs = 0
        self.error: BaseException | None = None
        self.result: dict[str, Any] = {"value": 1}

    def __call__(self, scorer: FakeScorer, work: Work, *, items: str) -> dict[str, Any]:
        self.runs += 1
        work.on_step("work", self.runs, None)
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    monkeypatch.setattr("bitmar.report.job.load_scorer", lambda source: FakeScorer(Path(source)))
    about = {"processor": "a chip", "system": "a system", "python": "3", "chosen": "numpy"}
    monkeypatch.setattr("bitmar.report.machine.diagnose", lambda: about)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "items.txt").write_text("1\n2\n")
    return folder


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counting]:
    """The sections "first" and "second" in place of all others; both read items.txt."""
    found = {"first": Counting(), "second": Counting()}

    def files(data: EvalData) -> dict[str, Any]:
        return {"items": str(data.folder / "items.txt")}

    made = {name: Task(name, name.title(), run, files, lambda _: (), seconds=1) for name, run in found.items()}
    monkeypatch.setattr(registry, "SECTIONS", {**registry.SECTIONS, **made})
    monkeypatch.setattr(write, "SECTIONS", made)
    monkeypatch.setattr(write, "find_sections", lambda names: registry.find_sections(names or list(made)))
    return found


@pytest.fixture
def report(model: Path, data: Path, tmp_path: Path) -> Callable[..., write.Report]:
    """report(**changes) -> the report of `model` on `data` in tmp_path/out."""

    def make(**changes: Any) -> write.Report:
        return write.write_report(**{"model": model, "out": tmp_path / "out", "data": data, **changes})

    return make
