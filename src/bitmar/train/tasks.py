"""Tasks of fine-tuning: the seven of (Super)GLUE that BabyLM 2025 asks for, CoLA and SST-2 beside them,
or anything in jsonl.

The sequences, batch sizes and numbers of epochs are those of the pipeline's `finetune` folder and `eval_finetuning.sh`;
CoLA and SST-2, which it left out, have those of its other tasks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError, DataError, nearest
from bitmar.data.archives import open_archive
from bitmar.data.sources import OnBad
from bitmar.data.text import near_path, reading

Label = int | str
SPLITS = ("train", "valid")
METRICS = ("accuracy", "f1", "mcc")
_FOLDERS = ("", "glue_filtered", "full_eval/glue_filtered", "evaluation_data/full_eval/glue_filtered")
_NAMED = 3  # bad lines in an error about a whole file


@dataclass(frozen=True, slots=True)
class Task:
    """How a line of a jsonl file becomes a text (or a pair of them) and a label.

    first, second: the fields of the two texts, joined by spaces; without `second` there is one text. template: how
    the fields of the first are put together instead. labels: all of them; None: whatever the training file has.
    metric: what chooses the best epoch. paper: BitMar's accuracy in Table 2, in %. files: of training and validation;
    without them NAME.train.jsonl and NAME.valid.jsonl. columns: the fields of a line of tab-separated values.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    template: str = ""
    label_field: str = "label"
    labels: tuple[Label, ...] | None = (0, 1)
    metric: str = "accuracy"
    batch: int = 32
    epochs: int = 10
    paper: float | None = None
    files: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def file(self, split: str) -> str:
        """What the data's publisher calls the file of a split, "train" or "valid"."""
        return self.files[SPLITS.index(split)] if self.files else f"{self.name}.{split}.jsonl"

    def values(self, line: bytes) -> dict[str, Any]:
        """The fields of a line. Raises ValueError."""
        if not self.columns:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError("not a JSON object")
            return values
        fields = line.decode("utf-8").split("\t")
        if len(fields) != len(self.columns):
            raise ValueError(f"{len(fields)} columns, not {len(self.columns)} ({', '.join(self.columns)})")
        values = dict(zip(self.columns, fields, strict=True))
        if (label := values.get(self.label_field, "")).isdecimal():
            values[self.label_field] = int(label)
        return values

    def texts(self, values: dict[str, Any]) -> tuple[str, ...]:
        """One text or two from a line's fields. Raises ValueError, which says what is wrong with the line."""
        found = []
        for field in (*self.first, *self.second):
            if field not in values:
                raise ValueError(f"no field {field!r}{nearest(field, values)}")
            text = values[field]
            if not isinstance(text, str):
                raise ValueError(f"{field!r} must be text, not {text!r:.40}")
            text.encode()  # JSON can write half a surrogate pair; UnicodeEncodeError is a ValueError
            found.append(text)
        if not any(text.strip() for text in found):
            raise ValueError("there is no text in it")
        one, other = found[: len(self.first)], found[len(self.first) :]
        text = self.template.format(*one) if self.template else " ".join(one)
        return (text, " ".join(other)) if other else (text,)

    def label(self, values: dict[str, Any]) -> Label:
        """The line's label. Raises ValueError."""
        if self.label_field not in values:
            raise ValueError(f"no label {self.label_field!r}{nearest(self.label_field, values)}")
        label = values[self.label_field]
        if isinstance(label, bool):
            label = int(label)
        if not isinstance(label, int | str):
            raise ValueError(f"the label must be a whole number or text, not {label!r:.40}")
        if self.labels is not None and label not in self.labels:
            raise ValueError(f"the label is {label!r:.40}; {self.name} has {', '.join(map(repr, self.labels))}")
        return label


_ALL = (
    Task("boolq", ("question",), ("passage",), batch=16, paper=66.5),
    Task("mnli", ("premise",), ("hypothesis",), labels=(0, 1, 2), paper=42.3),
    Task("mrpc", ("sentence1",), ("sentence2",), metric="f1", paper=69.1),
    Task("multirc", ("question", "answer"), ("paragraph",), "Question: {} Answer: {}", batch=16, paper=57.6),
    Task("qqp", ("question1",), ("question2",), metric="f1", paper=70.2),
    Task("rte", ("sentence1",), ("sentence2",), paper=54.0),
    Task(
        "wsc",
        ("span2_text", "span1_text"),
        ("text",),
        'Does "{}" refer to "{}" in this passage?',
        epochs=30,
        paper=63.5,
    ),
    Task(
        "cola",
        ("sentence",),
        metric="mcc",
        files=("CoLA/train.tsv", "CoLA/dev.tsv"),
        columns=("sentence", "label"),
    ),
    Task("sst2", ("sentence",), files=("SST2/train.tsv", "SST2/dev.tsv"), columns=("label", "sentence")),
)
TASKS = {task.name: task for task in _ALL}
"""Table 2's upper half, and two that are beside it, by name."""


def find_task(name: str) -> Task:
    """A task by its name. Unknown: ConfigError that names the nearest."""
    if name not in TASKS:
        raise ConfigError(
            f"there is no task {name!r}{nearest(name, TASKS)}; there are {', '.join(TASKS)}, and for data of your own "
            "--train, --valid and --text-field"
        )
    return TASKS[name]


def own_task(name: str, text_fields: Sequence[str], label_field: str = "label", metric: str = "accuracy") -> Task:
    """A task on data of one's own: one field, or two for pairs; its labels are those of the training file."""
    if not 1 <= len(text_fields) <= 2 or "" in text_fields:
        raise ConfigError(f"a task has one text field, or two for pairs of texts, not {len(text_fields)}")
    if metric not in METRICS:
        raise ConfigError(f"metric is one of {', '.join(METRICS)}, not {metric!r}{nearest(metric, METRICS)}")
    return Task(name, (text_fields[0],), tuple(text_fields[1:]), label_field=label_field, labels=None, metric=metric)


@dataclass(frozen=True, slots=True)
class LineFile:
    """A file of lines. name: in the archive `path`; "" where `path` is the file."""

    path: Path
    name: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.name}" if self.name else str(self.path)

    def read(self) -> bytes:
        """Its contents. Raises DataError."""
        if self.name:
            with open_archive(self.path) as archive:
                return archive.read(self.name)
        with reading(self.path):
            return self.path.read_bytes()


def task_files(task: Task, data: str | Path) -> dict[str, LineFile]:
    """The task's two files in the pipeline's `glue_filtered` folder or in one above it, or in a .zip there.

    Raises DataError, which says what is missing and where it comes from.
    """
    data = Path(data)
    names = {split: task.file(split) for split in SPLITS}
    partly: list[dict[str, LineFile]] = []
    for folder in (data / inner for inner in _FOLDERS):
        found = {s: LineFile(folder / name) for s, name in names.items() if (folder / name).is_file()}
        partly += [found] if found else []
    damage: list[DataError] = []
    for archive in [data] if data.suffix == ".zip" else sorted(data.glob("*.zip")):
        try:
            with open_archive(archive) as opened:
                found = _members(archive, opened.names, names)
        except DataError as error:  # of another task, maybe
            damage.append(error)
        else:
            partly += [found] if found else []
    for found in partly:
        if len(found) == len(names):
            return found
    if damage and not partly:
        raise damage[0]
    raise DataError(_missing(task, data, names, partly))


def _members(archive: Path, inside: Sequence[str], names: Mapping[str, str]) -> dict[str, LineFile]:
    found = {}
    for split, name in names.items():
        for member in inside:
            if f"/{member}".endswith(f"/{name}"):
                found[split] = LineFile(archive, member)
    return found


def _missing(task: Task, data: Path, names: Mapping[str, str], partly: Sequence[Mapping[str, LineFile]]) -> str:
    comes_from = (
        f"GLUE's data, with {' and '.join(names.values())}"
        if task.files
        else "the folder glue_filtered of BabyLM 2025's evaluation data (https://osf.io/ryjfm), or its .zip, with "
        "TASK.train.jsonl and TASK.valid.jsonl"
    )
    if partly:
        there = partly[0]
        split = next(split for split in names if split not in there)
        return f"{', '.join(map(str, there.values()))} has no {names[split]} beside it: --data is {comes_from}"
    path = data / names["train"]
    hint = near_path(path) if data.is_dir() else f" (and no folder {data})"
    return f"no file {path}{hint}: --data is {comes_from}"


def data_files(
    task: Task,
    data: str | Path | None = None,
    train: str | Path | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
) -> dict[str, LineFile]:
    """The files of a fine-tuning by split, as `bitmar.train.finetune.finetune` takes them.

    Raises ConfigError where it is not clear which, DataError for one that is not there.
    """
    if (data is None) == (train is None) or (train is None) != (valid is None):
        raise ConfigError("say where the lines are: `data`, the pipeline's folder, or both `train` and `valid`, files")
    files = {} if data is None else task_files(task, data)
    given = {"train": train, "valid": valid, "test": test}
    files |= {name: LineFile(Path(file)) for name, file in given.items() if file is not None}
    for file in files.values():
        if not file.path.is_file():
            raise DataError(f"no file {file.path}{near_path(file.path)}")
    return files


@dataclass(frozen=True, slots=True)
class Example:
    """A line of a file; number: its place, from 0. label: None where none was asked for."""

    number: int
    texts: tuple[str, ...]
    label: Label | None = None


def read_examples(
    file: str | Path | LineFile, task: Task, on_bad: OnBad | None = None, *, labelled: bool = True
) -> list[Example]:
    """The lines of a file; one that does not fit goes to `on_bad(FILE:LINE, reason)` and is left out.

    Raises DataError for a file that is missing, unreadable, or has no line that fits.
    """
    file = file if isinstance(file, LineFile) else LineFile(Path(file))
    examples: list[Example] = []
    reasons: list[str] = []
    for number, line in enumerate(file.read().splitlines()):
        if not line.strip():
            continue
        try:
            values = task.values(line)
            examples.append(Example(number, task.texts(values), task.label(values) if labelled else None))
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
            reasons.append(f"line {number + 1}: {reason}")
            if on_bad is not None:
                on_bad(f"{file}:{number + 1}", reason)
    if not examples:
        why = f": {'; '.join(reasons[:_NAMED])}" if reasons else ", it is empty"
        raise DataError(f"{file} has no line that fits the task {task.name}{why}")
    return examples


def find_labels(task: Task, train: Sequence[Example], held: Sequence[Example]) -> tuple[Label, ...]:
    """The classes, in order. Raises DataError where the training data cannot teach one that is asked for."""
    seen = {example.label for example in train if example.label is not None}
    labels = task.labels or tuple(sorted(seen, key=lambda label: (isinstance(label, str), label)))
    unseen = [label for label in labels if label not in seen]
    if unseen:
        raise DataError(
            f"no line of the training file has the label {unseen[0]!r}, one of {task.name}'s: is the file whole?"
        )
    if len(labels) < 2:
        raise DataError(f"every line of the training file has the label {labels[0]!r}: there is nothing to tell apart")
    strange = sorted({str(example.label) for example in held if example.label not in labels})
    if strange:
        raise DataError(f"held-out data has labels that training data has not: {', '.join(strange[:_NAMED])}")
    return labels
