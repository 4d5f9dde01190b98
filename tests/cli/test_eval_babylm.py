"""`bitmar eval babylm`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAIR = {"sentence_good": "she runs", "sentence_bad": "she run"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A BLiMP of three pairs."""
    folder = tmp_path / "data" / "blimp_filtered"
    folder.mkdir(parents=True)
    (folder / "agreement.jsonl").write_text(f"{json.dumps(PAIR)}\n" * 3)
    return tmp_path / "data"


def test_a_table_and_a_file(cli: Callable[..., Any], model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "babylm.json"
    result = cli("eval", "babylm", "--data", data, "--model", model, "--json", out)
    assert result.exit_code == 0
    assert all(text in result.stdout for text in ("BLiMP", "50.0", "48.70", "absent"))
    assert f"ewok: {data} has no ewok_filtered" in result.stdout
    document = json.loads(out.read_text())
    assert document["tasks"]["blimp"]["scores"]["blimp"]["n"] == 3 and document["scorer"] == "RuntimeScorer"
    document["tasks"]["blimp"]["seconds"] = -1
    out.write_text(json.dumps(document))  # what is there is not measured again
    again = cli("eval", "babylm", "--data", data, "--model", model, "--json", out)
    assert again.exit_code == 0 and json.loads(out.read_text())["tasks"]["blimp"]["seconds"] == -1
    (data / "wug_adj_nominalization").mkdir()
    lines = json.dumps({"sentences": "a tab\tof two", "ratio": "0.5"})
    (data / "wug_adj_nominalization" / "adj.jsonl").write_text(f"{lines}\n" * 5)
    cli("eval", "babylm", "--data", data, "--model", model, "--json", out, "--tasks", "wug_adj")
    tasks = json.loads(out.read_text())["tasks"]
    assert tasks["blimp"]["seconds"] == -1 and tasks["wug_adj"]["status"] == "done"  # one by one into one file
    cli("eval", "babylm", "--data", data, "--model", model, "--json", out, "--tasks", "blimp", "--limit", 2)
    assert set(json.loads(out.read_text())["tasks"]) == {"blimp"}  # with another limit it is another question
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_file_of_something_else_is_not_overwritten(
    fails: Callable[..., str], model: Path, data: Path, tmp_path: Path
) -> None:
    for content in ('{"my": "notes"}', "[1]", "text"):
        (tmp_path / "notes.json").write_text(content)
        arguments = ["eval", "babylm", "--data", data, "--model", model, "--json", tmp_path / "notes.json"]
        assert "no result of this command" in fails(*arguments)
        assert (tmp_path / "notes.json").read_text() == content


def test_json_on_stdout_and_a_choice_of_tasks(cli: Callable[..., Any], model: Path, data: Path) -> None:
    result = cli("eval", "babylm", "--data", data, "--model", model, "--tasks", "blimp,ewok", "--json", "-")
    assert set(json.loads(result.stdout)["tasks"]) == {"blimp", "ewok"}


def test_skipped_lines_are_told_in_the_exit_status(cli: Callable[..., Any], model: Path, data: Path) -> None:
    with (data / "blimp_filtered" / "agreement.jsonl").open("a") as file:
        file.write('{"sentence_good": "she')
    result = cli("eval", "babylm", "--data", data, "--model", model)
    assert result.exit_code == 1 and "agreement.jsonl:4" in result.stderr and "1 skipped" in result.stderr


def test_nothing_done_is_a_failure(cli: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = cli("eval", "babylm", "--data", tmp_path / "empty", "--model", model)
    assert result.exit_code == 2 and "blimp: " in result.stdout


def test_a_model_that_cannot_see_is_told(
    cli: Callable[..., Any], make_model: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    blind = make_model(tmp_path / "blind.bitmar", tower=False)
    (data / "winoground_filtered").mkdir()
    result = cli("eval", "babylm", "--data", data, "--model", blind, "--tasks", "winoground,blimp")
    assert result.exit_code == 0 and "blind" in result.stdout and "no vision tower" in result.stdout


def test_errors(fails: Callable[..., str], model: Path, data: Path) -> None:
    assert "did you mean 'blimp'" in fails("eval", "babylm", "--data", data, "--model", model, "--tasks", "blmp")
    assert "not 'native' " in fails("eval", "babylm", "--data", data, "--engine", "native") + " "
    assert "does not exist" in fails("eval", "babylm", "--data", data / "none", "--model", model)
