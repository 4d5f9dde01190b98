"""All tasks of a folder: what is there, what is not, and what a kill leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import ConfigError, DataError
from bitmar.evaluate.scorer import load_scorer
from bitmar.evaluate.store import Store, checksum, fingerprint
from bitmar.evaluate.tasks.babylm import run_babylm
from bitmar.evaluate.tasks.babylm.registry import TASKS
from bitmar.evaluate.work import Work

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
    bad: list[str] = []
    found = run_babylm(scorer, data, work=Work(on_bad=lambda name, reason: bad.append(name)))
    states = {name: result["status"] for name, result in found.items()}
    assert list(states) == list(TASKS)
    assert [name for name, state in states.items() if state == "done"] == ["blimp", "comps"]
    assert [name for name, state in states.items() if state == "failed"] == ["ewok"]
    assert set(states.values()) == {"done", "failed", "absent"}
    assert "scores" not in found["reading"] and "has no reading" in found["reading"]["message"]
    assert "ewok_filtered.zip cannot be read" in found["ewok"]["message"]
    assert found["blimp"]["scores"]["blimp"]["score"] == 1
    (skipped,) = found["comps"]["skipped"]
    assert skipped.endswith("comps_base.jsonl:2") and bad == [skipped]
    assert json.loads(json.dumps(found)) == found


def test_a_model_without_a_tower_is_blind(data: Path, scorer: Any) -> None:
    (data / "full_eval" / "vqa_filtered").mkdir()
    scorer.has_tower = False
    found = run_babylm(scorer, data, ["vqa"])["vqa"]
    assert found["status"] == "blind" and "no vision tower" in found["message"]


def test_what_is_kept_is_not_repeated(data: Path, scorer: Any, tmp_path: Path, write: Callable[..., Path]) -> None:
    with Store(tmp_path / "store", {}) as store:
        first = run_babylm(scorer, data, work=Work(store=store))
        calls = scorer.calls
        assert run_babylm(scorer, data, work=Work(store=store)) == first and scorer.calls == calls
        write(data / "full_eval" / "blimp_filtered" / "agreement.jsonl", [PAIR] * 5)
        after = run_babylm(scorer, data, work=Work(store=store))
        assert scorer.calls == calls + 1 and after["blimp"]["data_hash"] != first["blimp"]["data_hash"]


def test_a_kill_loses_only_the_task_it_hits(data: Path, scorer: Any, tmp_path: Path) -> None:
    rule = scorer.rule

    def killed(pieces: list[str], picture: Any) -> Any:
        if "grass" in "".join(pieces):  # of COMPS, the second task
            raise KeyboardInterrupt
        return rule(pieces, picture)

    scorer.rule = killed
    with pytest.raises(KeyboardInterrupt), Store(tmp_path / "store", {}) as store:
        run_babylm(scorer, data, work=Work(store=store))
    scorer.rule, calls = rule, scorer.calls
    with Store(tmp_path / "store", {}) as store:
        assert store.found["blimp"]["status"] == "done"
        found = run_babylm(scorer, data, work=Work(store=store))
    assert scorer.calls == calls + 1 and found["comps"]["status"] == "done"


def test_bad_questions(data: Path, scorer: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'comps'"):
        run_babylm(scorer, data, ["comp"])
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        run_babylm(scorer, data, work=Work(0))
    with pytest.raises(DataError, match="does not exist"):
        run_babylm(scorer, data / "nowhere")


def test_both_halves_agree(data: Path, folder: Path, write: Callable[..., Path]) -> None:
    write(
        data / "full_eval" / "entity_tracking" / "regular.jsonl",
        [{"input_prefix": "the dog", "options": [" runs", " over", " man", " grass"], "numops": i} for i in range(3)],
    )
    tasks = ["blimp", "comps", "entity_tracking"]
    scorers = [load_scorer(path) for path in (folder, folder / "packed")]
    found = [run_babylm(scorer, data, tasks) for scorer in scorers]
    scores = [{name: result["scores"] for name, result in one.items()} for one in found]
    assert scores[0] == scores[1] and len(scores[0]) == len(tasks)
    assert checksum(scorers[0]) != checksum(scorers[1]) and fingerprint(scorers[0]).startswith("TorchScorer")


def test_the_real_data(shared_data: Path) -> None:
    pytest.importorskip("scipy", reason="correlations need bitmar[eval]")
    found = run_babylm(load_scorer(), shared_data / "eval" / "babylm2025", work=Work(60))
    done = {name for name, result in found.items() if result["status"] == "done"}
    assert done == {"blimp", "wug_adj", "reading"}
    assert found["blimp"]["scores"]["blimp"]["n"] == 60 and not found["blimp"]["skipped"]
