"""`bitmar report`, with its real sections on a tiny model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for package in ("jinja2", "lm_eval", "matplotlib"):
    pytest.importorskip(package, reason="a report needs bitmar[eval,train,plots]")

PAIR = {"sentence_good": "she runs", "sentence_bad": "she run"}
QUESTION = {"query": "Passage: a cat\nQuestion: is it a cat?", "choices": ["no", "yes"], "gold": 1}
FAST = "probes,grid,zeros,tasks,babylm"


@pytest.fixture
def data(tmp_path: Path, shard: Path) -> Path:
    """BoolQ of four questions, BLiMP of three pairs, and five photos of which one is cut off."""
    folder = tmp_path / "data"
    for name in ("eval/lm_eval", "eval/babylm2025/blimp_filtered", "captions"):
        (folder / name).mkdir(parents=True)
    with zipfile.ZipFile(folder / "eval/lm_eval/boolq.jsonl.zip", "w") as archive:
        archive.writestr("boolq.jsonl", f"{json.dumps(QUESTION)}\n" * 4)
    (folder / "eval/babylm2025/blimp_filtered/agreement.jsonl").write_text(f"{json.dumps(PAIR)}\n" * 3)
    (folder / "captions/things-val-00000.tar").write_bytes(shard.read_bytes())
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """results() -> what report.json says of our model, by section."""

    def read() -> dict[str, Any]:
        document = json.loads((tmp_path / "out" / "report.json").read_text())
        return {name: some["ours"] for name, some in document["results"].items()}

    return read


def test_from_data_to_pages(
    cli: Callable[..., Any], model: Path, data: Path, tmp_path: Path, results: Callable[[], dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    result = cli("report", "--model", model, "--data", data, "--out", out, "--only", FAST)
    assert result.exit_code == 0, result.stderr
    assert "5 sections to measure, about" in result.stderr and "things-val-00000/002" in result.stderr
    found = results()
    assert {name for name, each in found.items() if each["status"] == "done"} == set(FAST.split(","))
    assert found["tasks"]["measured"]["bitmar_boolq"]["n"] == 4
    assert "arc_easy.jsonl.zip is not there" in found["tasks"]["measured"]["bitmar_arc_easy"]["message"]
    assert "eval/nlvr1.zip" in found["nlvr"]["message"] and found["speed"]["status"] == "not run"
    assert found["tasks"]["command"].startswith(f"bitmar eval tasks --model {model} --data {data}/eval/lm_eval")
    page = (out / "report.html").read_text()
    assert page.count("data:image/") == 2 and "42.83" in page
    assert "| BoolQ | 42.83 | 50.0 | 100.0 |" in (out / "report.md").read_text()
    assert (out / "figures" / "captions.jpg").is_file()

    again = cli("report", "--model", model, "--data", data, "--out", out, "--only", FAST)
    assert again.exit_code == 0 and "0 sections to measure; 5 are finished" in again.stderr


def test_what_cannot_be_measured_says_why(
    cli: Callable[..., Any],
    make_model: Callable[..., Path],
    data: Path,
    tmp_path: Path,
    results: Callable[[], dict[str, Any]],
) -> None:
    """A blind model, and an archive of which the end is missing: one is named, the other is a failure."""
    pairs = data / "eval/babylm2025/blimp_filtered"
    (pairs / "agreement.jsonl").unlink()
    pairs.rmdir()
    pairs.with_suffix(".zip").write_bytes(b"PK\x03\x04 half of it")
    blind = make_model(tmp_path / "blind.bitmar", tower=False)
    only = "grid,captions,babylm,tasks"
    result = cli("report", "--model", blind, "--data", data, "--out", tmp_path / "out", "--only", only)
    assert result.exit_code == 1
    found = results()
    assert [found[name]["status"] for name in only.split(",")] == ["absent", "absent", "failed", "done"]
    assert "no vision tower" in found["grid"]["message"] and "download it again" in found["babylm"]["message"]
    assert "failed: BabyLM 2025: " in result.stderr and "Traceback" not in result.stderr


def test_a_killed_report_goes_on(model: Path, data: Path, tmp_path: Path, results: Callable[[], Any]) -> None:
    command = [sys.executable, "-m", "bitmar", "report", "--only", "probes,zeros,babylm"]
    command += ["--model", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    first = tmp_path / "out" / "work" / "probes-ours.result.json"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not first.is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    written = first.stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == written
    assert [results()[name]["status"] for name in ("probes", "zeros", "babylm")] == ["done"] * 3


def test_a_baseline_gets_a_column(
    cli: Callable[..., Any], make_model: Callable[..., Path], model: Path, data: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other.bitmar", seed=1)
    options = ["--baseline", other, "--out", tmp_path / "out", "--only", "babylm"]
    result = cli("report", "--model", model, "--data", data, *options)
    assert result.exit_code == 0, result.stderr
    assert f"| baseline: {tmp_path.name}/other.bitmar |" in (tmp_path / "out" / "report.md").read_text().replace(
        "\\", ""
    )


def test_errors(fails: Callable[..., str], model: Path, data: Path, tmp_path: Path) -> None:
    here = ["--model", model, "--out", tmp_path / "out"]
    assert "did you mean 'captions'" in fails("report", *here, "--data", data, "--only", "caption")
    assert "no folder" in fails("report", *here, "--data", tmp_path / "nowhere")
    assert "no such file" in fails("report", "--model", "./nowhere", "--data", data, "--out", tmp_path / "out")
