"""Where the pipeline keeps a task's data, and the lines of its .jsonl files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bitmar.core.errors import DataError
from bitmar.core.strict_json import parse_json
from bitmar.data.sources import OnBad
from bitmar.evaluate.archives import read_files

T = TypeVar("T")
Record = Mapping[str, Any]

_ROOTS = ("", "full_eval", "evaluation_data/full_eval", "fast_eval", "evaluation_data/fast_eval")


def find_source(data: Path, names: Sequence[str]) -> Path | None:
    """The first of the folders (or `NAME.zip`) that is there; `data` is the pipeline's `evaluation_data`, or in it."""
    if data.stem in names and data.exists():
        return data
    for name in names:
        for root in _ROOTS:
            for path in (data / root / name, data / root / f"{name}.zip"):
                if path.exists():
                    return path
    return None


def read_records(source: Path, decode: Callable[[Record, str], T], on_bad: OnBad) -> list[T]:
    """`decode(line, stem of its file)` of every line of the .jsonl files.

    A line that is no JSON object, or that `decode` refuses with KeyError, TypeError or ValueError, goes to `on_bad` as
    FILE:LINE and is skipped. Not one good line: DataError.
    """
    items = []
    for name, contents in read_files(source, ".jsonl"):
        for number, line in enumerate(contents.splitlines(), 1):
            if not line.strip():
                continue
            try:
                values = parse_json(line)
                if not isinstance(values, dict):
                    raise TypeError("no JSON object")
                items.append(decode(values, Path(name).stem))
            except KeyError as error:
                on_bad(f"{name}:{number}", f"lacks {error}")
            except (TypeError, ValueError) as error:
                on_bad(f"{name}:{number}", str(error))
    if not items:
        raise DataError(f"{source} holds no line that can be read: download it again")
    return items


def text_of(values: Record, key: str) -> str:
    """A text that must be there. Raises KeyError, TypeError."""
    value = values[key]
    if not isinstance(value, str) or not value:
        raise TypeError(f"{key!r} is no text")
    return value


def texts_of(values: Record, key: str) -> list[str]:
    """A list of at least one text. Raises KeyError, TypeError."""
    value = values[key]
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text for text in value):
        raise TypeError(f"{key!r} is no list of texts")
    return value
