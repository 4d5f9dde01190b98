"""The figures of README and docs/ are those of docs/figures.json."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bitmar.core.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("no benchmarks/ beside the tests: a source distribution has none")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import figures  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return figures  # type: ignore[no-any-return]


def test_every_page_is_up_to_date(figures: ModuleType) -> None:
    store = figures.read_store()
    for page in figures.pages():
        assert figures.written(page, store) == page.read_text(encoding="utf-8"), "run `make figures`"


def test_every_kept_figure_can_be_measured_and_stands_on_a_page(figures: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in figures.pages())
    shown = {".".join(name.split(".")[:2]) for name in re.findall(r"<!-- figure: (\S+) -->", text)}
    for name, entry in figures.read_store().items():
        assert entry["figures"].keys() == figures.MEASUREMENTS[name].figures.keys()
        assert entry["command"] and entry["machine"] and re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])
        assert any(mark.startswith(f"{name}.") for mark in shown)


def test_a_result_becomes_texts(figures: ModuleType, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    result.write_text('{"tasks": {"blimp": {"scores": {"blimp": {"score": 0.6149, "low": 0.6, "high": 0.63}}}}}')
    entry = figures.taken("blimp", result, "a note")
    store = {"blimp": entry}
    assert figures.looked_up("blimp.score", store) == "61.5 %"
    assert figures.looked_up("blimp.score.interval", store) == "60.0 to 63.0 %"
    assert figures.looked_up("blimp.measured", store).endswith("; a note")
    result.write_text("{}")
    with pytest.raises(DataError, match="has no tasks / blimp"):
        figures.taken("blimp", result, "")


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- figure: bench.nothing -->1<!-- /figure -->", "'bench.nothing'"),
        ("<!-- figure: bench.decode_64 -->1", "one of them is not"),
        ("1<!-- /figure -->", "one of them is not"),
        ("<!-- figure bench.decode_64 -->1<!-- /figure -->", "one of them is not"),
    ],
)
def test_a_mark_without_a_figure_is_an_error(figures: ModuleType, tmp_path: Path, text: str, message: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match=message):
        figures.written(page, figures.read_store())
