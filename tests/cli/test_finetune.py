"""`bitmar finetune`: what reaches the training, what is printed, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="fine-tuning needs bitmar[train]")
pytest.importorskip("sklearn", reason="fine-tuning needs bitmar[train]")


def write(path: Path, count: int) -> Path:
    lines = [{"one": "It is good." if i % 2 else "It is bad.", "two": "Is it?", "right": i % 2} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def own(tmp_path: Path) -> list[Any]:
    """Options for data of one's own: ten lines to train on, and six of which one is broken."""
    train, valid = write(tmp_path / "train.jsonl", 10), write(tmp_path / "valid.jsonl", 6)
    valid.write_text(valid.read_text() + "{broken\n")
    fields = ("--text-field", "one", "--text-field", "two", "--label-field", "right")
    return ["--train", train, "--valid", valid, *fields, "--epochs", 1, "--batch", 4, "--threads", 1]


def test_data_of_ones_own(cli: Callable[..., Any], own: list[Any], trained: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "new" / "report.json"
    result = cli("finetune", *own, "--model", trained, "--out", out, "--seeds", 2, "--json", report)
    assert result.exit_code == 1, result.output
    assert f"skipped {tmp_path / 'valid.jsonl'}:7: not JSON" in result.stderr and "1 lines skipped" in result.stderr
    first, *lines = result.stdout.splitlines()
    assert first == "train: 6 lines of the valid file, mean of 2 seeds; in brackets 95 % intervals"
    assert [line.split()[0] for line in lines[:3]] == ["accuracy", "f1", "mcc"]
    assert "over seeds [" in lines[0] and "always 0  50.0" in lines[0] and "paper" not in lines[0]
    written = json.loads(report.read_text())
    assert written == json.loads((out / "report.json").read_text())
    assert written["model"] == str(trained / "joint") and written["skipped"] == {"train": 0, "valid": 1}
    assert len((out / "seed-43" / "predictions.jsonl").read_text().splitlines()) == 6


def test_a_task_of_the_list(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    for split in ("train", "valid"):
        lines = [{"sentence1": "A dog.", "sentence2": "A cat.", "label": i % 2} for i in range(4)]
        (tmp_path / f"rte.{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ("--epochs", 1, "--pooling", "mean", "--threads", 1)
    result = cli("finetune", "rte", "--data", tmp_path, "-m", trained / "joint", "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "paper  54.0" in result.stdout and "not above the commonest class" in result.stdout
    protocol = json.loads((tmp_path / "out" / "report.json").read_text())["protocol"]
    assert (protocol["learning_rate"], protocol["batch"], protocol["epochs"], protocol["pooling"]) == (
        3e-5, 32, 1, "mean",
    )  # fmt: skip


def test_the_head_alone_on_some_lines_of_an_archive(cli: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "glue.zip", "w") as packed:
        for split in ("train", "dev"):
            packed.writestr(f"SST2/{split}.tsv", "1\tgood\n0\tbad\n" * 4)
    options = ("--frozen", "--lines", 6, "--epochs", 2, "--learning-rate", 1e-3, "--threads", 1)
    result = cli("finetune", "sst2", "--data", tmp_path, "-m", trained / "joint", "-o", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "sst2: 8 lines of the valid file" in result.stdout and "paper" not in result.stdout
    assert "trained: head alone, 2 epochs of 6 lines at 0.001" in result.stdout


def test_what_makes_no_sense(fails: Callable[..., str], own: list[Any], trained: Path, tmp_path: Path) -> None:
    where = ("--model", trained, "--out", tmp_path / "out")
    assert "no task 'mnly' (did you mean 'mnli'?)" in fails("finetune", "mnly", "--data", tmp_path, *where)
    assert "no file" in (message := fails("finetune", "mnli", "--data", tmp_path, *where)) and "osf.io" in message
    assert "name a task (boolq, " in fails("finetune", "--data", tmp_path, *where)
    assert "rte has its own fields" in fails("finetune", "rte", *own, *where)
    assert "did you mean 'accuracy'" in fails("finetune", *own, *where, "--metric", "acuracy")
    assert "packed for use" in fails("finetune", *own, "--model", trained / "model.bitmar", "--out", tmp_path / "out")
    assert "learning_rate must be above 0" in fails("finetune", *own, *where, "--learning-rate", 0)
    assert not (tmp_path / "out" / "report.json").exists()


def test_what_is_not_there_is_named_before_torch_is_imported(own: list[Any], tmp_path: Path) -> None:
    (tmp_path / "rte.train.jsonl").write_text("{}")
    where = ["--out", str(tmp_path / "out"), "--model", str(tmp_path)]
    cases = {
        "rte.train.jsonl has no rte.valid.jsonl beside it": ["rte", "--data", str(tmp_path)],
        f"no file {tmp_path / 'tset.jsonl'}": [*own, "--test", tmp_path / "tset.jsonl"],
        "is no checkpoint folder, it has no config.json": own,
    }
    block = "import sys\nsys.modules['torch'] = None\nfrom bitmar.__main__ import main\nmain()"
    for message, options in cases.items():
        command = [sys.executable, "-c", block, "finetune", *map(str, options), *where]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "1000"})
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_help_shows_examples(cli: Callable[..., Any]) -> None:
    result = cli("finetune", "--help")
    assert result.exit_code == 0 and "bitmar finetune rte --data glue_filtered" in " ".join(result.stdout.split())
