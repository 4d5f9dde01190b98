"""Tables of figures: what results look like to people, on a terminal and on both pages of a report.

A cell knows what it is, so nobody reads its text again to colour or to count it. Tables are made from results as JSON
has them, because a result may be of an earlier run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

OURS, TEXT, BASELINE, PEER = "ours", "text", "baseline", "peer"
"""Roles of the models in a report."""

MISSING = "not measured"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Cell:
    """kind: how it is shown. beside: of a verdict, "above", "at" or "below" by the name of what a figure is compared
    with."""

    text: str
    kind: Literal["text", "number", "good", "bad", "missing"] = "text"
    beside: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


Cells = Sequence[Cell | str]
"""A row; a text is a cell of text. The first one names the row."""


@dataclass(frozen=True, slots=True)
class Table:
    """note: what is to be known beneath it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Cells]
    note: str = ""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, every entry a cell."""
        return [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Picture:
    """file: in the report's folder of figures; "" where there is none."""

    title: str
    file: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """Results by task and model, as report.json has them, and look-ups for the tables.

    whole: whether a table lists what was not measured, too.
    """

    document: Mapping[str, Any]
    whole: bool = True

    @classmethod
    def of(cls, task: str, measured: Any, title: str) -> Results:
        """Of one task of one model."""
        model = {"key": OURS, "role": OURS, "title": title}
        done = {"status": "done", "measured": measured}
        return cls({"contestants": [model], "results": {task: {OURS: done}}}, whole=False)

    @property
    def contestants(self) -> list[dict[str, Any]]:
        """The models that have columns in tables: all but the peers."""
        return [each for each in self.document["contestants"] if each["role"] != PEER]

    @property
    def peers(self) -> list[dict[str, Any]]:
        """Other people's models."""
        return [each for each in self.document["contestants"] if each["role"] == PEER]

    def get(self, task: str, contestant: str = OURS) -> dict[str, Any] | None:
        """A result, None if it was not measured."""
        found = self.document["results"].get(task, {}).get(contestant, {})
        return found.get("measured") if found.get("status") == "done" else None

    def each(self, task: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those who have a result, with an ending for the table's title."""
        for model in self.contestants:
            measured = self.get(task, model["key"])
            if measured is not None:
                yield "" if model["role"] == OURS else f" ({model['title']})", measured

    def load(self, task: str) -> float | None:
        """How busy the machine was when our model was measured, None where nothing was, or nobody knows."""
        found: float | None = self.document["results"].get(task, {}).get(OURS, {}).get("load")
        return found

    def why(self, task: str, contestant: str = OURS) -> str:
        """Why nothing was measured."""
        found = self.document["results"].get(task, {}).get(contestant)
        return "not part of this model's report" if found is None else str(found.get("message", ""))

    def missing(self, task: str, contestant: str = OURS) -> Cell:
        """A cell for that."""
        return missing(self.why(task, contestant))

    def empty(self, task: str, title: str) -> Iterator[Table]:
        """A table that says why our model has none."""
        if self.get(task) is None:
            yield Table(title, [], [], self.missing(task).text)


def missing(why: str) -> Cell:
    """In place of a figure."""
    return Cell(f"{MISSING}: {why}", "missing")


def number(value: float | None, digits: int = 1, unit: str = "", *, plus: bool = False) -> Cell:
    """With thousands apart; nothing for None."""
    text = "" if value is None else f"{value:{'+' if plus else ''},.{digits}f}{unit}"
    return Cell(signed(text), "number")


def signed(text: str) -> str:
    """With a minus sign for a hyphen."""
    return text.replace("-", MINUS)


def between(found: Mapping[str, Any], scale: float = 1.0, digits: int = 1) -> Cell:
    """The interval of a figure."""
    if found["low"] is None or found["high"] is None:
        return Cell("", "number")
    low, high = (number(scale * found[end], digits) for end in ("low", "high"))
    return Cell(f"{low} to {high}", "number")


def ranged(found: Mapping[str, Any] | None, scale: float = 1.0, digits: int = 1, ending: str = "") -> Cell:
    """A figure with its interval, both times `scale`, from what `Figure.to_dict` gave."""
    if found is None:
        return Cell("", "number")
    if found["value"] is None:
        return Cell("undefined: the model's answers do not differ", "missing")
    return Cell(f"{number(scale * found['value'], digits)} ({between(found, scale, digits)}){ending}", "number")


def verdict(found: Mapping[str, Any], scale: float, references: Mapping[str, float | None]) -> Cell:
    """Where an interval lies beside other figures: above or below all of it, or not told apart ("at").

    It is good news or bad where the first reference, the paper's figure, is there.
    """
    if found["low"] is None:
        return Cell("undefined")
    low, high = scale * found["low"], scale * found["high"]
    places = {
        name: "above" if low > reference else "below" if high < reference else "at"
        for name, reference in references.items()
        if reference is not None
    }
    first = places.get(next(iter(references)))
    said = ", ".join(f"{place} {name}" for name, place in places.items())
    return Cell(said, "good" if first == "above" else "bad" if first == "below" else "text", places)


def judged(text: str) -> Cell:
    """Whether something helps: "helps", "hurts", or that no difference shows; of a probe, "passed" and "FAILED"."""
    return Cell(text, {"helps": "good", "passed": "good", "hurts": "bad", "FAILED": "bad"}.get(text, "text"))  # type: ignore[arg-type]


def markdown(table: Table) -> list[str]:
    """The lines of a table in Markdown, without title and note."""
    head = [_escaped(text) for text in table.head]
    rows = [[_escaped(cell.text) for cell in row] for row in table.cells]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def unmarked(text: str) -> str:
    """On one line, without what Markdown would take for markup."""
    return re.sub(r"([\\*_<>\[\]])", r"\\\1", " ".join(text.split()))


def _escaped(text: str) -> str:
    return unmarked(text).replace("|", "\\|")
