"""Task definitions, and lines of jsonl that fit them or do not."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import ConfigError, DataError
from bitmar.train.tasks import (
    TASKS,
    Example,
    LineFile,
    Task,
    data_files,
    find_labels,
    find_task,
    own_task,
    read_examples,
    task_files,
)

RTE = {"sentence1": "A dog runs.", "sentence2": "It moves.", "label": 1}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_the_seven_tasks_of_table_2_and_two_beside() -> None:
    assert list(TASKS) == ["boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc", "cola", "sst2"]
    assert [name for name, task in TASKS.items() if task.paper is None] == ["cola", "sst2"]
    assert {name for name, task in TASKS.items() if task.metric == "f1"} == {"mrpc", "qqp"}
    assert {name for name, task in TASKS.items() if task.batch == 16} == {"boolq", "multirc"}
    assert {name: task.epochs for name, task in TASKS.items() if task.epochs != 10} == {"wsc": 30}
    assert {name for name, task in TASKS.items() if task.labels == (0, 1, 2)} == {"mnli"}


def test_texts_are_put_together_as_the_pipeline_does() -> None:
    boolq = {"question": "is it so", "passage": "It is."}
    assert TASKS["boolq"].texts(boolq) == ("is it so", "It is.")
    multirc = {"question": "Who?", "answer": "He.", "paragraph": "He ran."}
    assert TASKS["multirc"].texts(multirc) == ("Question: Who? Answer: He.", "He ran.")
    wsc = {"span1_text": "Mark", "span2_text": "he", "text": "Mark says he is."}
    assert TASKS["wsc"].texts(wsc) == ('Does "he" refer to "Mark" in this passage?', "Mark says he is.")
    assert own_task("reviews", ["body"]).texts({"body": "Good {} film."}) == ("Good {} film.",)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no task 'bolq'.*did you mean 'boolq'"):
        find_task("bolq")
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        own_task("mine", ["text"], metric="acuracy")
    for fields in ([], ["a", "b", "c"], [""]):
        with pytest.raises(ConfigError, match="one text field, or two"):
            own_task("mine", fields)


BAD = {
    "no json": ("{oops", "not JSON"),
    "a list": ([1], "not a JSON object"),
    "deep": ("[" * 100_000, "recursion"),
    "another field": ({"sentence_1": "A", "sentence2": "B", "label": 0}, "no field 'sentence1' .did you mean"),
    "no text": ({**RTE, "sentence2": 7}, "'sentence2' must be text, not 7"),
    "empty": ({**RTE, "sentence1": "", "sentence2": " "}, "no text in it"),
    "no label": ({"sentence1": "A", "sentence2": "B"}, "no label 'label'"),
    "unknown label": ({**RTE, "label": 2}, "the label is 2; rte has 0, 1"),
    "half a label": ({**RTE, "label": 0.5}, "whole number or text, not 0.5"),
    "half a character": ('{"sentence1": "\\ud800", "sentence2": "B", "label": 0}', "surrogates not allowed"),
}


@pytest.mark.parametrize("line, reason", BAD.values(), ids=BAD)
def test_a_bad_line_is_named_and_left_out(tmp_path: Path, line: Any, reason: str) -> None:
    path = write(tmp_path / "rte.train.jsonl", RTE, "", line, {**RTE, "label": True})
    skipped: dict[str, str] = {}
    examples = read_examples(path, TASKS["rte"], skipped.__setitem__)
    assert [(e.number, e.label) for e in examples] == [(0, 1), (3, 1)]  # the places are the file's
    assert list(skipped) == [f"{path}:3"]
    assert re.search(reason, skipped[f"{path}:3"])


def test_a_file_without_a_good_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no line that fits the task rte: line 1: no field 'sentence1'"):
        read_examples(write(tmp_path / "a.jsonl", {"x": 1}), TASKS["rte"])
    with pytest.raises(DataError, match="it is empty"):
        read_examples(write(tmp_path / "b.jsonl"), TASKS["rte"])
    with pytest.raises(DataError, match=r"no file .*c\.jsonl"):
        read_examples(tmp_path / "c.jsonl", TASKS["rte"])
    with pytest.raises(DataError, match="cannot read"):
        read_examples(tmp_path, TASKS["rte"])


def test_labels_are_not_needed_to_predict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"sentence1": "A", "sentence2": "B"})
    assert read_examples(path, TASKS["rte"], labelled=False) == [Example(0, ("A", "B"))]


def test_the_files_of_a_task(tmp_path: Path) -> None:
    inner = tmp_path / "full_eval" / "glue_filtered"
    inner.mkdir(parents=True)
    with pytest.raises(DataError, match=r"no file .*rte\.train\.jsonl.*glue_filtered of BabyLM.*osf\.io"):
        task_files(TASKS["rte"], tmp_path)
    write(inner / "rte.valid.jsonl", RTE)
    with pytest.raises(DataError, match=r"glue_filtered/rte\.valid\.jsonl has no rte\.train\.jsonl beside it"):
        task_files(TASKS["rte"], tmp_path)
    write(inner / "rte.train.jsonl", RTE)
    for given in (tmp_path, tmp_path / "full_eval", inner):
        assert task_files(TASKS["rte"], given) == {s: LineFile(inner / f"rte.{s}.jsonl") for s in ("train", "valid")}
    with pytest.raises(DataError, match="no folder"):
        task_files(TASKS["rte"], tmp_path / "nowhere")


def pack(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return path


def test_the_files_of_a_task_in_its_archive(tmp_path: Path) -> None:
    line = json.dumps(RTE)
    names = [f"glue_filtered/rte.{split}.jsonl" for split in ("train", "valid")]
    (tmp_path / "another.zip").write_bytes(b"PK, but cut off")  # is not asked for
    packed = pack(tmp_path / "glue.zip", **dict.fromkeys(names, line), **{"glue_filtered/boolq.valid.jsonl": "{}"})
    for data in (tmp_path, packed):
        files = data_files(TASKS["rte"], data)
        assert [str(file) for file in files.values()] == [f"{packed}/{name}" for name in names]
        assert read_examples(files["train"], TASKS["rte"]) == [Example(0, ("A dog runs.", "It moves."), 1)]
    with pytest.raises(DataError, match=r"boolq\.valid\.jsonl has no boolq\.train\.jsonl beside it"):
        data_files(TASKS["boolq"], tmp_path)
    with pytest.raises(DataError, match=r"another\.zip cannot be read"):  # it may be in that one
        data_files(TASKS["mnli"], tmp_path)
    bad: list[str] = []
    pack(packed, **dict.fromkeys(names, f"{{\n{line}"))
    read_examples(files["valid"], TASKS["rte"], lambda where, reason: bad.append(where))
    assert bad == [f"{packed}/{names[1]}:1"]


def test_tab_separated_values(tmp_path: Path) -> None:
    sst2, cola = TASKS["sst2"], TASKS["cola"]
    for name in (*sst2.files, *cola.files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\tit 's fine\n" if name in sst2.files else "it 's fine\t1\n")
    for task in (sst2, cola):
        for file in task_files(task, tmp_path).values():
            assert read_examples(file, task) == [Example(0, ("it 's fine",), 1)]
    bad: dict[str, str] = {}
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"1\tfine\n2\tfine\nfine\n1\ta\tb\n1\t\xff\nyes\tfine\n1\t\n")
    assert len(read_examples(path, sst2, bad.__setitem__)) == 1
    assert {int(where.rpartition(":")[2]): reason for where, reason in bad.items()} == {
        2: "the label is 2; sst2 has 0, 1",
        3: "1 columns, not 2 (label, sentence)",
        4: "3 columns, not 2 (label, sentence)",
        5: "'utf-8' codec can't decode byte 0xff in position 2: invalid start byte",
        6: "the label is 'yes'; sst2 has 0, 1",
        7: "there is no text in it",
    }


def lines(*labels: int | str) -> list[Example]:
    return [Example(i, ("text",), label) for i, label in enumerate(labels)]


def test_classes() -> None:
    mine = own_task("mine", ["text"])
    assert find_labels(mine, lines("b", 10, "a", 2, 10), lines("a")) == (2, 10, "a", "b")
    with pytest.raises(DataError, match=r"every line .* has the label 'a': there is nothing to tell apart"):
        find_labels(mine, lines("a", "a"), lines("a"))
    with pytest.raises(DataError, match="held-out data has labels that training data has not: c"):
        find_labels(mine, lines("a", "b"), lines("a", "c"))
    assert find_labels(Task("t", ("text",), labels=(0, 1, 2)), lines(2, 1, 0), lines(1)) == (0, 1, 2)
    with pytest.raises(DataError, match="has the label 2, one of t's: is the file whole"):
        find_labels(Task("t", ("text",), labels=(0, 1, 2)), lines(1, 0), lines(1))
