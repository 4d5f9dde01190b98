"""The pages: well-formed, complete in themselves, and nothing in them is taken for markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from bitmar.core.errors import DataError
from bitmar.evaluate.tables import Picture, Table, judged, missing, number, verdict
from bitmar.report.chapters import Chapter
from bitmar.report.render import in_short, to_html, to_markdown
from bitmar.report.write import Report

VOID = {"meta", "link", "img", "br", "hr", "input"}
DOCUMENT: dict[str, Any] = {
    "limit": None,
    "contestants": [{"name": "model", "role": "ours"}],
    "machine": {"date": "now", "processor": "a chip", "cores": 2, "versions": {"bitmar": "1"}},
    "results": {"first": {"ours": {"status": "done"}}},
    "chapters": [],
}


class Page(HTMLParser):
    """Fails on tags that are not closed in order; collects links and sources."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.targets += [value for name in ("src", "href") if (value := about.get(name))]
        self.ids |= {about["id"] or ""} if "id" in about else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    return page


def test_html_needs_nothing_but_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    chapter = Chapter(
        "One & two", ["text"], [Table("T", ["a", "b"], [["x", number(1)]])], [Picture("P", "a.png", "note")]
    )
    text = to_html(DOCUMENT, [chapter], tmp_path)
    page = read(text)
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in page.targets)
    assert {target[1:] for target in page.targets if target.startswith("#")} <= page.ids
    assert not re.search(r"https?://|@import|url\(", text)
    assert '<td class="number">1.0</td>' in text


def test_text_of_a_model_is_no_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> | *bold* [x](y)"
    chapter = Chapter("C", [evil], [Table(evil, ["a"], [[evil]], evil)], [Picture(evil, "", evil)])
    text = to_html(DOCUMENT, [chapter], tmp_path)
    assert "<script" not in text
    assert read(text).text.count("<script>alert(1)</script>") == 6
    markdown = to_markdown(DOCUMENT, [chapter])
    assert "<script" not in markdown.replace(r"\<script", "") and r"\|" in markdown and r"\*bold\*" in markdown


def test_markdown_has_a_cell_for_each_column() -> None:
    table = Table("T", ["a", "b", "c"], [["1 | 2", "line\nbreak", ""]], "note")
    lines = [line for line in to_markdown(DOCUMENT, [Chapter("C", [], [table])]).splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [4, 4, 4]


def test_a_cell_is_shown_as_what_it_is_and_not_as_what_it_says(tmp_path: Path) -> None:
    rows = [["a", missing("no data"), judged("passed"), judged("FAILED"), number(-0.16, 2), "passed", "12 %"]]
    chapter = Chapter("C", [], [Table("T", list("abcdefg"), rows)])
    text = to_html(DOCUMENT, [chapter], tmp_path)
    for kind, words in (
        ("missing", "not measured: no data"), ("good", "passed"), ("bad", "FAILED"), ("number", "\N{MINUS SIGN}0.16"),
        ("text", "passed"), ("text", "12 %"),
    ):  # fmt: skip
        assert f'<td class="{kind}">{words}</td>' in text


def test_the_page_begins_with_how_many_figures_are_above_the_papers() -> None:
    found = {"value": 0.5, "low": 0.4, "high": 0.6}
    rows = [[name, verdict(found, 100, {"the paper": paper})] for name, paper in (("a", 30), ("b", 50), ("c", None))]
    said = in_short([Chapter("C", [], [Table("T", ["", "words of a heading"], rows)])])
    assert "2 are measured: 1 above it, 1 at it" in said
    assert in_short([Chapter("C")]) == ""


def test_a_quick_look_is_marked(report: Callable[..., Report], parts: dict[str, Any]) -> None:
    found = report(limit=5)
    for page in (found.html.read_text(), found.markdown.read_text()):
        assert "at most 5 items" in page
    assert "at most" not in report().markdown.read_text().split("##")[0]


def test_the_whole_page(report: Callable[..., Report], parts: dict[str, Any]) -> None:
    parts["second"].error = DataError('a <broken> "archive" & more')
    page = read(report().html.read_text())
    assert 'a <broken> "archive" & more' in page.text
    for name in (
        "Table 1",
        "Table 2",
        "Table 3",
        "Table 4",
        "Figure 2",
        "Figure 3",
        "SHA-256",
        "28.32",
        "not measured",
    ):
        assert name in page.text, name
