"""`bitmar eval tasks`: on a tiny model and made-up archives."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="the harness needs lm-eval")


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Two questions of ARC, one line that is none, and the same of OpenBookQA without it."""
    folder = tmp_path / "archives"
    folder.mkdir()
    question = json.dumps({"query": "Question: why?", "choices": ["a", "bb"], "gold": 0}) + "\n"
    for name, contents in (("arc_easy", question * 2 + "{\n"), ("openbook_qa", question * 3)):
        with zipfile.ZipFile(folder / f"{name}.jsonl.zip", "w") as archive:
            archive.writestr(f"{name}.jsonl", contents)
    return folder


def test_a_document_a_table_and_exit_statuses(
    cli: Callable[..., Any], model: Path, archives: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "tasks.json"
    common = ("eval", "tasks", "--model", model, "--data", archives, "--json")
    good = cli(*common, out, "--tasks", "openbook_qa", "--limit", 2)
    assert good.exit_code == 0 and "OpenBookQA" in good.stdout
    document = json.loads(out.read_text())
    result = document["tasks"]["bitmar_openbook_qa"]
    assert document["model"] == str(model) and document["limit"] == 2
    assert result["status"] == "done" and result["n"] == 2 and result["chance"]["uniform"] == 0.5
    assert [path.name for path in out.parent.iterdir()] == ["tasks.json"]

    some = cli(*common, "-", "--tasks", "arc_easy", "--tasks", "openbook_qa,boolq")
    tasks = json.loads(some.stdout)["tasks"]
    assert some.exit_code == 1  # a line and a task are left out
    assert [task["status"] for task in tasks.values()] == ["done", "done", "failed"]
    assert "arc_easy.jsonl:3" in some.stderr and "boolq.jsonl.zip is not there" in some.stderr
    assert cli(*common, "-", "--tasks", "piqa").exit_code == 2


def test_a_killed_run_leaves_what_is_done(
    cli: Callable[..., Any], model: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitmar.evaluate.scorer import RuntimeScorer

    compare, calls = RuntimeScorer.compare, []

    def stopping(self: RuntimeScorer, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compare(self, *arguments, **options)

    monkeypatch.setattr(RuntimeScorer, "compare", stopping)
    out = tmp_path / "tasks.json"
    command = ("eval", "tasks", "--model", model, "--data", archives, "--json", out, "--tasks", "openbook_qa,arc_easy")
    assert cli(*command).exit_code == 130 and not out.exists()
    assert cli(*command).exit_code == 1 and len(calls) == 3  # the second task alone
    assert len(json.loads(out.read_text())["tasks"]) == 2


def test_unknown_tasks_and_halves(fails: Callable[..., str], model: Path) -> None:
    assert "did you mean 'bitmar_winogrande'" in fails("eval", "tasks", "--tasks", "winogrand", "--model", model)
    assert "did you mean 'runtime'" in fails("eval", "tasks", "--engine", "runtme", "--model", model)
