"""Where tasks find their data in a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from bitmar.evaluate.folder import Absent, EvalData, files_of, find_source


def zipped(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ewok_filtered/a.jsonl", '{"text": "one"}\n')
        archive.writestr("__MACOSX/ewok_filtered/a.jsonl", "no data")
    return path


@pytest.mark.parametrize("root", ["", "full_eval", "evaluation_data/full_eval", "fast_eval"])
def test_a_task_is_found_where_the_pipeline_keeps_it(tmp_path: Path, root: str) -> None:
    (tmp_path / root / "ewok_fast").mkdir(parents=True)
    names = ("ewok_filtered", "ewok_fast")
    assert find_source(tmp_path, names) == tmp_path / root / "ewok_fast"
    whole = zipped(tmp_path / root / "ewok_filtered.zip")
    assert find_source(tmp_path, names) == whole  # the whole set before its quick subset
    assert find_source(whole, names) == whole
    assert find_source(tmp_path, ("comps",)) is None


def test_what_is_there_is_found_and_what_is_not_is_absent(tmp_path: Path) -> None:
    data = EvalData(tmp_path)
    for look_up in (data.tasks, data.blimp, data.shards, data.labelled, data.nlvr, lambda: data.babylm(["ewok_fast"])):
        with pytest.raises(Absent, match="has no"):
            look_up()
    for name in ("eval/lm_eval/boolq.jsonl.zip", "eval/nlvr1.zip", "captions/mine-val-0.tar", "photos/things-0.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "babylm2025" / "blimp_fast").mkdir(parents=True)
    assert data.tasks() == tmp_path / "eval/lm_eval" and data.nlvr() == tmp_path / "eval/nlvr1.zip"
    assert data.shards() == [f"{tmp_path}/captions/*val*.tar"] and data.labelled() == [f"{tmp_path}/photos/*.tar"]
    assert data.blimp() == tmp_path / "babylm2025/blimp_fast" and data.texts(["switchboard"]) == []
    assert EvalData(tmp_path, ["elsewhere.tar"]).shards() == ["elsewhere.tar"]


def test_patterns_and_folders_become_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    names = [tmp_path / "a-0.tar", tmp_path / "a-1.tar", tmp_path / "folder" / "b.txt"]
    for name in names:
        name.touch()
    assert files_of(str(tmp_path / "a-*.tar"), tmp_path / "folder") == names
    assert files_of("https://example.org/a.tar", tmp_path / "none") == []
