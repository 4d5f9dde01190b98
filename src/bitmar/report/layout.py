"""The parts of both pages: chapters of paragraphs, tables and pictures, all plain text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MISSING = "not measured"
BESIDE = "beside them"
"""Head of the column that says where our figure lies beside the others in its row."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are text; the first column names the row. note: what is to be known beneath it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """file: in the report's folder of figures."""

    title: str
    file: str
    note: str = ""


@dataclass(slots=True)
class Chapter:
    """text: paragraphs before the tables."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Results:
    """The sections' results, by section and contestant, and look-ups for the tables."""

    document: dict[str, Any]

    @property
    def contestants(self) -> list[dict[str, Any]]:
        """The contestants that have columns in tables: all but the peers."""
        return [each for each in self.document["contestants"] if each["role"] != "peer"]

    @property
    def peers(self) -> list[dict[str, Any]]:
        """Other people's models."""
        return [each for each in self.document["contestants"] if each["role"] == "peer"]

    def get(self, section: str, contestant: str = "ours") -> dict[str, Any] | None:
        """A section's result, None if it was not measured."""
        found = self.document["results"].get(section, {}).get(contestant, {})
        return found.get("measured") if found.get("status") == "done" else None

    def load(self, section: str) -> float | None:
        """How busy the machine was when our model was measured, None where nothing was, or nobody knows."""
        found: float | None = self.document["results"].get(section, {}).get("ours", {}).get("load")
        return found

    def why(self, section: str, contestant: str = "ours") -> str:
        """Why nothing was."""
        found = self.document["results"].get(section, {}).get(contestant)
        return "not part of this model's report" if found is None else str(found.get("message", ""))

    def missing(self, section: str, contestant: str = "ours") -> str:
        """A cell for that."""
        return f"{MISSING}: {self.why(section, contestant)}"


def number(value: float | None, digits: int = 1) -> str:
    """With thousands apart; nothing for None."""
    return "" if value is None else signed(f"{value:,.{digits}f}")


def signed(text: str) -> str:
    """Printed with a minus sign for a hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def between(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval."""
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def ranged(found: dict[str, float] | None, scale: float = 1.0, digits: int = 1) -> str:
    """A figure with its interval, both times `scale`, from {"value", "low", "high"}."""
    if found is None:
        return ""
    value, low, high = (found[name] * scale for name in ("value", "low", "high"))
    return f"{number(value, digits)} ({between(low, high, digits)})"


def verdict(low: float, high: float, references: dict[str, float | None]) -> str:
    """Where an interval lies beside other figures: above or below all of it, or not told apart ("at")."""
    words = []
    for name, reference in references.items():
        if reference is not None:
            words.append(f"{'above' if low > reference else 'below' if high < reference else 'at'} {name}")
    return ", ".join(words)
