"""Finding the pipeline's data and reading it, whole or broken."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from bitmar.core.errors import DataError
from bitmar.evaluate.tasks.babylm.files import (
    find_source,
    read_records,
    text_of,
    texts_of,
)


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


def test_bad_lines_are_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "tw\n\n[1]\n{"other": 1}\n{"text": 7}\n{"text": "two"}\n')
    bad: dict[str, str] = {}
    found = read_records(tmp_path, lambda line, stem: (stem, text_of(line, "text")), bad.__setitem__)
    assert found == [("a", "one"), ("a", "two")]
    assert list(bad) == [f"{path}:{number}" for number in (2, 4, 5, 6)]
    assert "not JSON" in bad[f"{path}:2"] and "lacks 'text'" in bad[f"{path}:5"] and "no text" in bad[f"{path}:6"]
    with pytest.raises(DataError, match="holds no line that can be read"):
        read_records(tmp_path, lambda line, stem: line["none"], bad.__setitem__)


def test_a_folder_and_its_archive_read_alike(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "ewok_filtered.zip")
    with zipfile.ZipFile(archive) as opened:
        opened.extract("ewok_filtered/a.jsonl", tmp_path)
    read = [
        read_records(source, lambda line, stem: (stem, line["text"]), lambda *_: None)
        for source in (archive, tmp_path / "ewok_filtered")
    ]
    assert read[0] == read[1] == [("a", "one")]


def test_values_have_to_be_texts() -> None:
    assert texts_of({"x": ["a", "b"]}, "x") == ["a", "b"]
    for value in ([], "ab", ["a", 1], ["a", ""], None):
        with pytest.raises(TypeError, match="no list of texts"):
            texts_of({"x": value}, "x")
