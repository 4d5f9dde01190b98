"""What a killed evaluation leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitmar.core.errors import OutputError
from bitmar.evaluate.store import ResultLog

TASK = {"model": "abc", "beams": 1}


def fill(path: Path) -> None:
    with ResultLog(path, TASK) as log:
        log.put("a", "A dog.")
        log.put("b", [1.5, -2])


def test_results_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    fill(path)
    with ResultLog(path, TASK) as log:
        assert log.found == {"a": "A dog.", "b": [1.5, -2]}
        log.put("ü\n", None)
    assert ResultLog(path, TASK).found["ü\n"] is None


def test_another_task_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path)
    assert ResultLog(path, {**TASK, "beams": 3}).found == {}
    assert ResultLog(path, TASK).found == {}  # and what was there is gone


@pytest.mark.parametrize("cut", range(1, 12))
def test_half_a_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    fill(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with ResultLog(path, TASK) as log:
        assert log.found == {"a": "A dog."}
        log.put("c", 3)
    assert ResultLog(path, TASK).found == {"a": "A dog.", "c": 3}


@pytest.mark.parametrize("rubbish", [b"", b"no json\n", b"\xff\xfe\n", json.dumps(TASK).encode() + b'\n{"x": 1}\n'])
def test_rubbish_begins_anew(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(rubbish)
    assert ResultLog(path, TASK).found == {}


def test_a_result_outlives_a_kill(tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "log", TASK)
    log.put("a", 1)  # and no close
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1]) == {"key": "a", "result": 1}


def test_a_log_of_another_task_says_what_was_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path)
    with ResultLog(path, TASK) as log:
        assert not log.replaced
        with pytest.raises(OutputError, match="another process"):
            ResultLog(path, TASK)
    with ResultLog(path, {**TASK, "beams": 3}) as log:
        assert "another beams: begun anew" in log.replaced
    path.write_text("rubbish\n")
    with ResultLog(path, TASK) as log:
        assert "damaged: begun anew" in log.replaced
