"""What a model is fine-tuned on: the seven tasks of (Super)GLUE that BabyLM 2025 asks for, or anything in jsonl.

The sequences, batch sizes and numbers of epochs are those of the pipeline's `finetune` folder and `eval_finetuning.sh`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError, DataError, nearest
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
    metric: what chooses the best epoch. paper: BitMar's accuracy in Table 2, in %.
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
)
TASKS = {task.name: task for task in _ALL}
"""Table 2's upper half, by name."""


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


def task_files(task: Task, data: str | Path) -> dict[str, Path]:
    """TASK.train.jsonl and TASK.valid.jsonl in the pipeline's `glue_filtered` folder, or in one above it.

    Raises DataError, which says what is missing and where it comes from.
    """
    data = Path(data)
    for folder in (data / inner for inner in _FOLDERS):
        files = {split: folder / f"{task.name}.{split}.jsonl" for split in SPLITS}
        missing = [path for path in files.values() if not path.is_file()]
        if not missing:
            return files
        if len(missing) < len(files):
            break
    else:
        missing = [data / f"{task.name}.{split}.jsonl" for split in SPLITS]
    hint = near_path(missing[0]) if data.is_dir() else f" (and no folder {data})"
    raise DataError(
        f"no file {missing[0]}{hint}: --data is the folder glue_filtered of BabyLM 2025's evaluation data "
        "(https://osf.io/ryjfm), which holds TASK.train.jsonl and TASK.valid.jsonl"
    )


def data_files(
    task: Task,
    data: str | Path | None = None,
    train: str | Path | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
) -> dict[str, Path]:
    """The files of a fine-tuning by split, as `bitmar.train.finetune.finetune` takes them.

    Raises ConfigError where it is not clear which, DataError for one that is not there.
    """
    if (data is None) == (train is None) or (train is None) != (valid is None):
        raise ConfigError("say where the lines are: `data`, the pipeline's folder, or both `train` and `valid`, files")
    files = {} if data is None else task_files(task, data)
    files |= {name: Path(f) for name, f in {"train": train, "valid": valid, "test": test}.items() if f is not None}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"no file {path}{near_path(path)}")
    return files


@dataclass(frozen=True, slots=True)
class Example:
    """A line of a file; number: its place, from 0. label: None where none was asked for."""

    number: int
    texts: tuple[str, ...]
    label: Label | None = None


def read_examples(path: str | Path, task: Task, on_bad: OnBad | None = None, *, labelled: bool = True) -> list[Example]:
    """The lines of a jsonl file; one that does not fit goes to `on_bad(FILE:LINE, reason)` and is left out.

    Raises DataError for a file that is missing, unreadable, or has no line that fits.
    """
    path = Path(path)
    examples: list[Example] = []
    reasons: list[str] = []
    with reading(path):
        lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise ValueError("not a JSON object")
            examples.append(Example(number, task.texts(values), task.label(values) if labelled else None))
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
            reasons.append(f"line {number + 1}: {reason}")
            if on_bad is not None:
                on_bad(f"{path}:{number + 1}", reason)
    if not examples:
        why = f": {'; '.join(reasons[:_NAMED])}" if reasons else ", it is empty"
        raise DataError(f"{path} has no line that fits the task {task.name}{why}")
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
