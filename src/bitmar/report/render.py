"""The pages: HTML that needs nothing but itself, and Markdown. Both say the same."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitmar.core.errors import DependencyError, pip_install
from bitmar.evaluate.tables import Picture, Table, markdown, unmarked
from bitmar.report.chapters import Chapter

FOLDER = Path(__file__).parent / "templates"
TITLE = "bitmar report"


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
        lines += [f"## {chapter.title}", "", *(f"{unmarked(text)}\n" for text in chapter.text)]
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
    """How many of our figures are above, at or below the paper's; "" if none is measured."""
    cells = [cell for chapter in chapters for table in chapter.tables for row in table.cells for cell in row]
    counts = Counter(cell.beside["the paper"] for cell in cells if "the paper" in cell.beside)
    if not counts:
        return ""
    said = ", ".join(f"{counts[word]} {word} it" for word in ("above", "at", "below") if counts[word])
    return f"Of the paper's rows in Tables 1 and 2, {counts.total()} are measured: {said} (95 % intervals)."


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
    lines = [f"### {unmarked(table.title)}", "", *([*markdown(table), ""] if table.rows else [])]
    return [*lines, f"{unmarked(table.note)}\n"] if table.note else lines


def _markdown_picture(picture: Picture) -> list[str]:
    image = [f"![{unmarked(picture.title)}](figures/{picture.file})", ""] if picture.file else []
    return [f"### {unmarked(picture.title)}", "", *image, f"{unmarked(picture.note)}\n"]
