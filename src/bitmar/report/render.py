"""The pages: HTML that needs nothing but itself, and Markdown. Both say the same."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitmar.core.errors import DependencyError, pip_install
from bitmar.report.layout import BESIDE, MISSING, Chapter, Picture, Table

FOLDER = Path(__file__).parent / "templates"
TITLE = "bitmar report"
_NUMBER = re.compile(r"[+\-\N{MINUS SIGN}]?\d[\d,.]*( %| s)?( \(.*\))?$|$")
_GOOD, _BAD = ("passed", "above the paper", "helps"), ("FAILED", "below the paper", "hurts", "failed")


def require_jinja() -> Any:
    """jinja2, or a DependencyError before there is any work."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise DependencyError(f"a report needs {error.name}: {pip_install('eval')}") from error
    return jinja2


def to_html(document: dict[str, Any], chapters: Sequence[Chapter], figures: Path) -> str:
    """One page with its pictures inside. All text is escaped."""
    jinja2 = require_jinja()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "kind": kind,
        "anchor": anchor,
        "source": lambda picture: _inlined(figures / picture.file) if picture.file else "",
    }
    template = environment.get_template("report.html.jinja")
    name = document["contestants"][0]["name"]
    page: str = template.render(title=TITLE, name=name, summary=summary(document, chapters), chapters=chapters)
    return page


def to_markdown(document: dict[str, Any], chapters: Sequence[Chapter]) -> str:
    """The report as Markdown; its pictures lie in figures/."""
    lines = [f"# {TITLE}", "", *(f"{line}\n" for line in summary(document, chapters))]
    for chapter in chapters:
        lines += [f"## {chapter.title}", "", *(f"{_plain(text)}\n" for text in chapter.text)]
        for table in chapter.tables:
            lines += _markdown_table(table)
        for picture in chapter.pictures:
            lines += _markdown_picture(picture)
    return "\n".join(lines).rstrip() + "\n"


def summary(document: dict[str, Any], chapters: Sequence[Chapter]) -> list[str]:
    """Lines for the top of the page; from the second on, warnings."""
    ours, machine = document["contestants"][0], document["machine"]
    jobs = [job for some in document["results"].values() for job in some.values()]
    done = sum(job["status"] == "done" for job in jobs)
    lines = [
        f"Model: {ours['name']} ({ours.get('fingerprint', '')[:32]}). {machine['date']}, bitmar "
        f"{machine['versions']['bitmar']}, {machine['processor']}, {machine['cores']} cores. "
        f"{done} of {len(jobs)} sections measured. {in_short(chapters)}".rstrip()
    ]
    if document["limit"] is not None:
        lines.append(
            f"A quick look: at most {document['limit']} items of each task. The figures are not those of whole tasks; "
            "the intervals say how little they say."
        )
    return lines


def in_short(chapters: Sequence[Chapter]) -> str:
    """How many rows of the paper's Tables 1 and 2 are above, at or below it; "" if none is measured."""
    counts = Counter(
        row[-1].split(" the paper")[0]
        for chapter in chapters
        for table in chapter.tables
        if table.head[-1] == BESIDE
        for row in table.rows
        if " the paper" in row[-1]
    )
    if not counts:
        return ""
    said = ", ".join(f"{counts[word]} {word} it" for word in ("above", "at", "below") if counts[word])
    return f"Of the paper's rows in Tables 1 and 2, {counts.total()} are measured: {said} (95 % intervals)."


def kind(cell: str) -> str:
    """How a cell is shown: "n" a number, "good", "bad", "missing" or "" plain text."""
    if cell.startswith(MISSING):
        return "missing"
    if cell.startswith(_BAD):
        return "bad"
    if cell.startswith(_GOOD):
        return "good"
    return "n" if _NUMBER.match(cell) else ""


def anchor(title: str) -> str:
    """A title as the target of a link."""
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _inlined(path: Path) -> str:
    media = "image/png" if path.suffix == ".png" else "image/jpeg"
    try:
        return f"data:{media};base64,{base64.b64encode(path.read_bytes()).decode()}"
    except OSError:  # somebody has deleted it
        return ""


def _markdown_table(table: Table) -> list[str]:
    lines = [f"### {_plain(table.title)}", ""]
    if table.rows:
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in (table.head, ["---"] * len(table.head), *table.rows)]
        lines.append("")
    return [*lines, f"{_plain(table.note)}\n"] if table.note else lines


def _markdown_picture(picture: Picture) -> list[str]:
    image = [f"![{_plain(picture.title)}](figures/{picture.file})", ""] if picture.file else []
    return [f"### {_plain(picture.title)}", "", *image, f"{_plain(picture.note)}\n"]


def _cell(text: str) -> str:
    return text if set(text) == {"-"} else _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """On one line, without what Markdown would take for markup."""
    return re.sub(r"([\\*_<>\[\]])", r"\\\1", " ".join(text.split()))
