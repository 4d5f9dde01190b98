"""What is measured, what is not measured again, and what a failure leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import ConfigError, DataError
from bitmar.evaluate.folder import Absent
from bitmar.evaluate.peer import Unreachable
from bitmar.report.write import Report, Watch

Make = Callable[..., Report]


def test_a_finished_section_is_not_measured_again(report: Make, parts: dict[str, Any]) -> None:
    first = report()
    assert first.measured == 2 and not first.failed
    again = report()
    assert again.measured == 2 and [part.runs for part in parts.values()] == [1, 1]
    assert again.document["results"]["first"]["ours"]["measured"] == {"value": 1}


@pytest.mark.parametrize("change", ["model", "data", "limit", "version"])
def test_whatever_a_result_depends_on_makes_it_stale(
    report: Make, parts: dict[str, Any], model: Path, data: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    report()
    changes: dict[str, Any] = {}
    if change == "model":
        model.write_bytes(b"others")
    elif change == "data":
        (data / "items.txt").write_text("1\n3\n")
    elif change == "limit":
        changes["limit"] = 7
    else:
        monkeypatch.setattr("bitmar.report.job.__version__", "99")
    report(**changes)
    assert [part.runs for part in parts.values()] == [2, 2]


def test_a_kill_costs_no_finished_section(report: Make, parts: dict[str, Any]) -> None:
    parts["second"].error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        report()
    parts["second"].error = None
    assert report().measured == 2
    assert [part.runs for part in parts.values()] == [1, 2]


def test_a_report_can_be_read_while_it_grows(report: Make, parts: dict[str, Any], tmp_path: Path) -> None:
    parts["second"].error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        report()
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert document["results"]["first"]["ours"]["status"] == "done" and (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize(
    "error, status",
    [
        (DataError("half of it is missing"), "failed"),
        (Absent("no such data"), "absent"),
        (Unreachable("no Hub"), "absent"),
        (OSError(5, "Input/output error", "disk"), "failed"),
        (ZeroDivisionError("oh"), "failed"),
    ],
)
def test_the_others_go_on(report: Make, parts: dict[str, Any], error: Exception, status: str) -> None:
    parts["first"].error = error
    found = report()
    result = found.document["results"]["first"]["ours"]
    assert result["status"] == status and found.measured == 1
    assert bool(found.failed) == (status == "failed")
    assert str(error.args[-1]) in result["message"]
    assert result["message"] in found.html.read_text().replace("&#39;", "'")
    parts["first"].error = None
    assert report().measured == 2, "a failure must be tried again"


def test_our_own_fault_leaves_its_traceback(report: Make, parts: dict[str, Any], tmp_path: Path) -> None:
    parts["first"].error = ZeroDivisionError("oh")
    report()
    (trace,) = (tmp_path / "out" / "work").glob("*.traceback.txt")
    assert "ZeroDivisionError: oh" in trace.read_text()


def test_only_some_sections(report: Make, parts: dict[str, Any]) -> None:
    found = report(only=["second"])
    assert [part.runs for part in parts.values()] == [0, 1]
    assert found.document["results"]["first"]["ours"]["status"] == "not run"
    both = report(only=["first"])
    assert both.measured == 2 and [part.runs for part in parts.values()] == [1, 1]


def test_a_picture_that_was_deleted_is_drawn_again(report: Make, parts: dict[str, Any], tmp_path: Path) -> None:
    parts["first"].result = {"picture": "a.png"}
    picture = tmp_path / "out" / "figures" / "a.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"png")
    report()
    report()
    assert parts["first"].runs == 1
    picture.unlink()
    report()
    assert parts["first"].runs == 2


def test_a_damaged_result_is_measured_again(report: Make, parts: dict[str, Any], tmp_path: Path) -> None:
    report()
    (tmp_path / "out" / "work" / "first-ours.result.json").write_text('{"key": ')
    assert report().measured == 2 and parts["first"].runs == 2


def test_hashes_commands_and_versions(report: Make, parts: dict[str, Any], model: Path, data: Path) -> None:
    document = report().document
    result = document["results"]["first"]["ours"]
    items = data / "items.txt"
    assert result["files"] == {str(items): hashlib.sha256(items.read_bytes()).hexdigest()}
    assert result["command"] == f"bitmar eval first --model {model} --items {items}"
    assert document["machine"]["versions"]["bitmar"]


def test_who_is_told(report: Make, parts: dict[str, Any]) -> None:
    told: list[Any] = []
    parts["second"].error = DataError("broken")
    report(
        watch=Watch(
            on_plan=lambda todo, finished, seconds: told.append((todo, finished, seconds > 0)),
            on_job=lambda title, number: told.append((title, number)),
            on_step=lambda name, done, total: told.append(name),
            on_end=lambda title, reason: told.append((title, reason)),
        )
    )
    assert told == [
        (2, 0, True), ("First", 1), "work", ("First", ""), ("Second", 2), "work", ("Second", "broken"),
    ]  # fmt: skip


def test_what_makes_no_sense(report: Make, parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'first'"):
        report(only=["frist"])
    with pytest.raises(ConfigError, match="at least 2"):
        report(limit=1)
    with pytest.raises(DataError, match="no folder"):
        report(data=tmp_path / "nowhere")
    assert not parts["first"].runs
