"""The questions of the tasks in `tasks/`, read straight from the archives; the harness calls these functions by name.

Every function takes `archive`, the file's name, and gives {"test": rows}. The folder comes from the harness' metadata
(`data`), else from the variable BITMAR_EVAL_DATA, else it is eval/lm_eval below that of BITMAR_DATA. A line that
cannot be used goes to the metadata's `on_bad`, else it is logged, and is left out. No archive, or a damaged or
encrypted one: DataError.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from bitmar.core.errors import DataError
from bitmar.core.paths import data_folder
from bitmar.core.strict_json import parse_json
from bitmar.data.archives import Record, open_archive, read_files, read_records, read_rows, text_of, texts_of
from bitmar.data.sources import OnBad

VARIABLE = "BITMAR_EVAL_DATA"

Rows = list[dict[str, Any]]


def questions(archive: str, data: str | None = None, on_bad: OnBad | None = None, **_: object) -> dict[str, Any]:
    """Lines with a query, choices and the place of the right one: {"query", "choices", "gold"}."""

    def decode(values: Record, _: str) -> dict[str, Any]:
        choices = texts_of(values, "choices")
        return {"query": text_of(values, "query"), "choices": choices, "gold": _gold(values["gold"], choices)}

    return _lines(archive, data, on_bad, decode)


def contexts(archive: str, data: str | None = None, on_bad: OnBad | None = None, **_: object) -> dict[str, Any]:
    """Lines whose options stand before one continuation: {"choices", "continuation", "gold"}."""

    def decode(values: Record, _: str) -> dict[str, Any]:
        choices = texts_of(values, "context_options")
        rest = text_of(values, "continuation")
        return {"choices": choices, "continuation": rest, "gold": _gold(values["gold"], choices)}

    return _lines(archive, data, on_bad, decode)


def last_words(archive: str, data: str | None = None, on_bad: OnBad | None = None, **_: object) -> dict[str, Any]:
    """Lines with a text and its last word: {"context", "continuation"}."""

    def decode(values: Record, _: str) -> dict[str, Any]:
        return {key: text_of(values, key) for key in ("context", "continuation")}

    return _lines(archive, data, on_bad, decode)


def hellaswag(archive: str, data: str | None = None, on_bad: OnBad | None = None, **_: object) -> dict[str, Any]:
    """AbstainQA's sample, both of its halves: {"query", "choices", "gold"}, freed of WikiHow's marks as the harness
    does it."""
    source, tell, rows = find_archive(archive, data), on_bad or _log, Rows()
    for name, contents in read_files(source, ".json"):
        try:
            document = parse_json(contents)
            items = [(half, i, item) for half in ("dev", "test") for i, item in enumerate(document[half])]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{name} is no JSON document with "dev" and "test": download it again') from error
        for half, i, item in items:
            try:
                letters, endings = zip(*sorted(item["choices"].items()), strict=True)
                choices = [_unmarked(ending) for ending in endings]
                gold = letters.index(item["answer"])
                rows.append({"query": _unmarked(item["question"]), "choices": choices, "gold": gold})
            except (KeyError, TypeError, ValueError, AttributeError):  # what wrong types meet on the way
                tell(f"{name}:{half}[{i}]", "not an item with question, choices and answer")
    return _split(source, rows)


def mmlu(
    archive: str, subject: str, data: str | None = None, on_bad: OnBad | None = None, **_: object
) -> dict[str, Any]:
    """The test questions on a subject: {"subject", "question", "choices", "gold"}."""
    source, tell, rows = find_archive(archive, data), on_bad or _log, Rows()
    for name, contents in read_files(source, f"test/{subject}_test.csv"):
        for begin, values in islice(read_rows(name, contents), 1, None):  # after the header
            try:
                question, *choices, answer = values
                if len(choices) != 4 or not question.strip():
                    raise ValueError(f"{len(values)} fields instead of 6")
                row = {"subject": subject.replace("_", " "), "question": question.strip(), "choices": choices}
                rows.append({**row, "gold": _gold(int(answer), choices)})
            except ValueError as error:
                tell(f"{name}:{begin}", f"not a question, four choices and the place of the right one: {error}")
    return _split(source, rows)


def _lines(
    archive: str, data: str | None, on_bad: OnBad | None, decode: Callable[[Record, str], dict[str, Any]]
) -> dict[str, Any]:
    source = find_archive(archive, data)
    return _split(source, read_records(source, decode, on_bad or _log))


def find_archive(archive: str, data: str | None = None) -> Path:
    """The archive of that name, once it is known to be there, to have a directory, and not to be encrypted."""
    named = data or os.environ.get(VARIABLE)
    folder = Path(named) if named else data_folder() / "eval" / "lm_eval"
    path = folder / archive
    if not path.is_file():
        raise DataError(
            f"{path} is not there: say where the archives are, with --data DIR in `bitmar eval tasks`, "
            f"--metadata data=DIR in `lm_eval`, or the variable {VARIABLE}"
        )
    with open_archive(path):
        return path


def _split(source: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    from datasets import Dataset

    listed = list(rows)
    if not listed:
        raise DataError(f"{source} holds no question that can be read: download it again")
    return {"test": Dataset.from_list(listed)}


def _gold(value: object, choices: list[str]) -> int:
    if type(value) is not int or not 0 <= value < len(choices):
        raise ValueError(f"'gold' is no place among {len(choices)} choices")
    return value


def _unmarked(text: str) -> str:
    """Without WikiHow's [header], [title], [step]: the rule of the harness' own task."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _log(name: str, reason: str) -> None:
    logging.getLogger(__name__).warning("skipped %s: %s", name, reason)
