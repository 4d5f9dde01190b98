"""All tasks of a folder: what is there, what is not, and what a kill leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import ConfigError, DataError
from bitmar.evaluate.scorer import load_scorer
from bitmar.evaluate.tasks.babylm import run_babylm
from bitmar.evaluate.tasks.babylm.registry import TASKS
from bitmar.evaluate.tasks.babylm.run import model_checksum

PAIR = {"sentence_good": "the dog runs", "sentence_bad": "the dog run"}
COMPS = {"prefix_acceptable": "the dog", "prefix_unacceptable": "the grass", "property_phrase": "runs"}


@pytest.fixture
def data(write: Callable[..., Path], tmp_path: Path) -> Path:
    """BLiMP and COMPS, and a broken archive of EWoK."""
    folder = tmp_path / "full_eval"
    write(folder / "blimp_filtered" / "agreement.jsonl", [PAIR] * 4)
    write(folder / "comps" / "comps_base.jsonl", [COMPS, "half a li"])
    (folder / "ewok_filtered.zip").write_bytes(b"PK half")
    return tmp_path


@pytest.fixture
def scorer(fond: Callable[..., Any], tmp_path: Path) -> Any:
    """One whose name is a file, as a model's is."""
    found = fond("runs")
    (tmp_path / "model.bitmar").write_bytes(b"weights")
    found.name = str(tmp_path / "model.bitmar")
    return found


def test_what_is_absent_is_absent_and_what_is_broken_failed(data: Path, scorer: Any) -> None:
    found = run_babylm(scorer, data)
    states = {name: result["status"] for name, result in found["tasks"].items()}
    assert list(states) == list(TASKS)
    assert [name for name, state in states.items() if state == "done"] == ["blimp", "comps"]
    assert [name for name, state in states.items() if state == "failed"] == ["ewok"]
    assert set(states.values()) == {"done", "failed", "absent"}
    assert "scores" not in found["tasks"]["reading"] and "has no reading" in found["tasks"]["reading"]["message"]
    assert "ewok_filtered.zip cannot be read" in found["tasks"]["ewok"]["message"]
    assert found["tasks"]["blimp"]["scores"]["blimp"]["score"] == 1
    (skipped,) = found["tasks"]["comps"]["skipped"]
    assert skipped.endswith("comps_base.jsonl:2")
    assert json.loads(json.dumps(found)) == found


def test_a_model_without_a_tower_is_blind(data: Path, scorer: Any) -> None:
    (data / "full_eval" / "vqa_filtered").mkdir()
    scorer.has_tower = False
    found = run_babylm(scorer, data, ["vqa"])["tasks"]["vqa"]
    assert found["status"] == "blind" and "no vision tower" in found["message"]


def test_what_is_finished_is_not_repeated(data: Path, scorer: Any, tmp_path: Path) -> None:
    store = tmp_path / "out" / "babylm.json"
    first = run_babylm(scorer, data, store=store)
    calls = scorer.calls
    assert json.loads(store.read_text()) == first
    assert run_babylm(scorer, data, store=store) == first and scorer.calls == calls
    run_babylm(scorer, data, limit=2, store=store)
    assert scorer.calls == 2 * calls  # another question


@pytest.mark.parametrize("change", ["model", "data"])
def test_another_model_or_other_data_is_computed(
    change: str, data: Path, scorer: Any, tmp_path: Path, write: Callable[..., Path]
) -> None:
    store = tmp_path / "babylm.json"
    before = run_babylm(scorer, data, store=store)
    calls = scorer.calls
    if change == "model":
        Path(scorer.name).write_bytes(b"other weights")
    else:
        write(data / "full_eval" / "blimp_filtered" / "agreement.jsonl", [PAIR] * 5)
    after = run_babylm(scorer, data, store=store)
    assert scorer.calls == calls + (2 if change == "model" else 1)
    assert after["tasks"]["blimp"]["data_hash"] != before["tasks"]["blimp"]["data_hash"] or change == "model"


def test_a_model_in_no_file_is_never_taken_for_another(data: Path, scorer: Any, tmp_path: Path) -> None:
    scorer.name = "in memory"
    assert model_checksum(scorer.name) is None
    run_babylm(scorer, data, ["blimp"], store=tmp_path / "babylm.json")
    calls = scorer.calls
    run_babylm(scorer, data, ["blimp"], store=tmp_path / "babylm.json")
    assert scorer.calls == 2 * calls


def test_a_kill_loses_only_the_task_it_hits(data: Path, scorer: Any, tmp_path: Path) -> None:
    store = tmp_path / "babylm.json"
    rule = scorer.rule

    def killed(pieces: list[str], picture: Any) -> Any:
        if "grass" in "".join(pieces):  # of COMPS, the second task
            raise KeyboardInterrupt
        return rule(pieces, picture)

    scorer.rule = killed
    with pytest.raises(KeyboardInterrupt):
        run_babylm(scorer, data, store=store)
    assert json.loads(store.read_text())["tasks"]["blimp"]["status"] == "done"
    scorer.rule, calls = rule, scorer.calls
    found = run_babylm(scorer, data, store=store)
    assert scorer.calls == calls + 1 and found["tasks"]["comps"]["status"] == "done"


def test_tasks_one_by_one_fill_one_file(data: Path, scorer: Any, tmp_path: Path) -> None:
    store = tmp_path / "babylm.json"
    run_babylm(scorer, data, ["blimp"], store=store)
    assert set(run_babylm(scorer, data, ["comps"], store=store)["tasks"]) == {"blimp", "comps"}


def test_a_file_of_something_else_is_not_overwritten(data: Path, scorer: Any, tmp_path: Path) -> None:
    for content in ('{"my": "notes"}', "[1]", "text"):
        (tmp_path / "notes.json").write_text(content)
        with pytest.raises(ConfigError, match="no result of this command"):
            run_babylm(scorer, data, store=tmp_path / "notes.json")
        assert (tmp_path / "notes.json").read_text() == content


def test_bad_questions(data: Path, scorer: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'comps'"):
        run_babylm(scorer, data, ["comp"])
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        run_babylm(scorer, data, limit=0)
    with pytest.raises(DataError, match="does not exist"):
        run_babylm(scorer, data / "nowhere")


def test_both_halves_agree(data: Path, folder: Path, write: Callable[..., Path]) -> None:
    write(
        data / "full_eval" / "entity_tracking" / "regular.jsonl",
        [{"input_prefix": "the dog", "options": [" runs", " over", " man", " grass"], "numops": i} for i in range(3)],
    )
    tasks = ["blimp", "comps", "entity_tracking"]
    found = [run_babylm(load_scorer(path), data, tasks) for path in (folder, folder / "packed")]
    assert [one["scorer"] for one in found] == ["TorchScorer", "RuntimeScorer"]
    scores = [{name: result["scores"] for name, result in one["tasks"].items()} for one in found]
    assert scores[0] == scores[1]
    assert found[0]["model_checksum"] != found[1]["model_checksum"]


def test_the_real_data(shared_data: Path) -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")
    found = run_babylm(load_scorer(), shared_data / "eval" / "babylm2025", limit=60)["tasks"]
    done = {name for name, result in found.items() if result["status"] == "done"}
    assert done == {"blimp", "wug_adj", "reading"}
    assert found["blimp"]["scores"]["blimp"]["n"] == 60 and not found["blimp"]["skipped"]
