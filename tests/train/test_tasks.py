"""Task definitions, and lines of jsonl that fit them or do not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import ConfigError, DataError
from bitmar.train.tasks import TASKS, Example, Task, find_labels, find_task, own_task, read_examples, task_files

RTE = {"sentence1": "A dog runs.", "sentence2": "It moves.", "label": 1}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_the_seven_tasks_of_table_2() -> None:
    assert list(TASKS) == ["boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc"]
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
    write(inner / "rte.train.jsonl", RTE)
    with pytest.raises(DataError, match=r"no file .*rte\.valid\.jsonl.*did you mean 'rte\.train\.jsonl'"):
        task_files(TASKS["rte"], tmp_path)
    write(inner / "rte.valid.jsonl", RTE)
    for given in (tmp_path, tmp_path / "full_eval", inner):
        assert task_files(TASKS["rte"], given) == {s: inner / f"rte.{s}.jsonl" for s in ("train", "valid")}
    with pytest.raises(DataError, match="no folder"):
        task_files(TASKS["rte"], tmp_path / "nowhere")


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
