"""What a killed evaluation leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import OutputError
from bitmar.evaluate.store import Store, checksum, fingerprint, keep, kept

TASK = {"model": "abc", "beams": 1}


def fill(path: Path) -> None:
    with Store(path, TASK) as log:
        log.put("a", "A dog.")
        log.put("b", [1.5, -2])


def test_results_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    fill(path)
    with Store(path, TASK) as log:
        assert log.found == {"a": "A dog.", "b": [1.5, -2]}
        log.put("ü\n", None)
    assert Store(path, TASK).found["ü\n"] is None


def test_another_task_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path)
    assert Store(path, {**TASK, "beams": 3}).found == {}
    assert Store(path, TASK).found == {}  # and what was there is gone


@pytest.mark.parametrize("cut", range(1, 12))
def test_half_a_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    fill(path)
    path.write_bytes(path.read_bytes()[:-cut])
    with Store(path, TASK) as log:
        assert log.found == {"a": "A dog."}
        log.put("c", 3)
    assert Store(path, TASK).found == {"a": "A dog.", "c": 3}


@pytest.mark.parametrize("rubbish", [b"", b"no json\n", b"\xff\xfe\n", json.dumps(TASK).encode() + b'\n{"x": 1}\n'])
def test_rubbish_begins_anew(tmp_path: Path, rubbish: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(rubbish)
    assert Store(path, TASK).found == {}


def test_a_result_outlives_a_kill(tmp_path: Path) -> None:
    log = Store(tmp_path / "log", TASK)
    log.put("a", 1)  # and no close
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1]) == {"key": "a", "result": 1}


def test_a_log_of_another_task_says_what_was_other(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path)
    with Store(path, TASK) as log:
        assert not log.replaced
        with pytest.raises(OutputError, match="another process"):
            Store(path, TASK)
    with Store(path, {**TASK, "beams": 3}) as log:
        assert "another beams: begun anew" in log.replaced
    path.write_text("rubbish\n")
    with Store(path, TASK) as log:
        assert "damaged: begun anew" in log.replaced


def test_a_finished_store_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path)
    with Store(path, TASK) as log:
        log.finish()
    assert not path.exists()
    with pytest.raises(ZeroDivisionError), Store(path, TASK):
        raise ZeroDivisionError  # nothing was put into it
    assert not path.exists()


def test_a_finished_result_is_of_its_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.result.json"
    assert kept(path, TASK) is None
    keep(path, TASK, {"value": 1})
    assert kept(path, TASK) == {"value": 1} and kept(path, {**TASK, "beams": 3}) is None
    path.write_text('{"key": ')
    assert kept(path, TASK) is None


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_a_model_is_known_by_its_contents(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    first: Any = Named(str(path))
    before = fingerprint(first)
    assert before == fingerprint(first) and before.startswith("Named ")
    path.write_bytes(b"others")
    assert fingerprint(first) != before


def test_a_model_in_no_file_is_never_taken_for_another() -> None:
    one: Any = Named("in memory")
    other: Any = Named("in memory")
    assert checksum(one) is None and fingerprint(one) != fingerprint(other)
