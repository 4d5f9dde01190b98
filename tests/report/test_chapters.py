"""From results to rows: figures beside the paper's, and a reason where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.evaluate.paper import BABYLM, FINETUNED, PEERS, TABLE_1, TABLE_4
from bitmar.evaluate.tables import Table, number, verdict
from bitmar.report.chapters import Chapter, chapters


def share(value: float, spread: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def task(acc: float) -> dict[str, Any]:
    chance = {"uniform": 0.25, "majority": 0.3, "questions": 100}
    return {"status": "done", "acc": share(acc), "n": 100, "ties": 0, "chance": chance}


def score(value: float | None) -> dict[str, Any]:
    interval = (None, None) if value is None else (value - 0.02, value + 0.02)
    return {
        "score": value, "low": interval[0], "high": interval[1], "n": 50, "ties": 1, "chance": 0.5, "tie_share": 0.02,
    }  # fmt: skip


def document(results: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    ours = {"key": "ours", "role": "ours", "title": "ours", "source": None, "name": "m"}
    machine = {"date": "now", "processor": "chip", "cores": 1, "versions": {"bitmar": "1"}}
    return {"limit": None, "data": "d", "contestants": [ours, *others], "machine": machine, "results": results}


def done(measured: dict[str, Any]) -> dict[str, Any]:
    return {"status": "done", "measured": measured, "title": "t", "command": "c", "seconds": 1.0, "files": {}}


def absent(message: str) -> dict[str, Any]:
    return {"status": "absent", "message": message, "title": "t", "command": "c"}


def tables(found: list[Chapter]) -> dict[str, Table]:
    return {table.title: table for chapter in found for table in chapter.tables}


def row(table: Table, name: str) -> dict[str, str]:
    found = next(cells for cells in table.cells if cells[0].text.startswith(name))
    return dict(zip(table.head, map(str, found), strict=True))


def test_nothing_measured_leaves_no_row_out() -> None:
    found = tables(chapters(document({"tasks": {"ours": absent("no archives")}})))
    for name, _ in TABLE_1.values():
        assert row(found["Table 1: zero-shot tasks"], name)["ours"] == "not measured: no archives"
    assert len(found["Table 2: BabyLM 2025"].rows) == len(BABYLM) and len(found["Table 2: fine-tuning"].rows) == len(
        FINETUNED
    )
    table_4 = found["Table 4: memory on less memory off"]
    assert all(cells[2].kind == "missing" and "not measured" in cells[2].text for cells in table_4.cells)


@pytest.mark.parametrize(
    "acc, says",
    [
        (0.40, "above the paper, above chance, above the commonest"),
        (0.285, "at the paper, above chance, below the commonest"),
        (0.20, "below the paper, below chance, below the commonest"),
    ],
)
def test_a_figure_beside_the_paper(acc: float, says: str) -> None:
    baseline = {"key": "baseline b", "role": "baseline", "title": "baseline: b", "source": "b", "name": "b"}
    results = {
        "tasks": {
            "ours": done({"bitmar_arc_easy": task(acc), "bitmar_boolq": {"status": "failed", "message": "damaged"}}),
            "baseline b": done({"bitmar_arc_easy": task(0.5)}),
        }
    }
    table = tables(chapters(document(results, baseline)))["Table 1: zero-shot tasks"]
    found = row(table, "ARC-Easy")
    assert found["paper: BitMar-14M"] == "28.32" and found["chance"] == "25.0" and found["commonest"] == "30.0"
    assert found["ours"].startswith(str(number(100 * acc))) and found["baseline: b"] == "50.0 (49.0 to 51.0)"
    assert found["beside them"] == says
    told = next(cells for cells in table.cells if cells[0].text.startswith("ARC-Easy"))[-1]
    assert told.kind == {"above": "good", "below": "bad"}.get(says.split()[0], "text")
    assert told.beside["chance"] == says.split(", ")[1].split()[0]
    assert row(table, "BoolQ")["ours"] == "not measured: damaged"


def test_scores_of_babylm() -> None:
    tasks = {
        "blimp": {"status": "done", "scores": {"blimp": score(0.65)}},
        "wug_adj": {"status": "done", "scores": {"wug_adj": score(None)}},
        "ewok": {"status": "absent", "message": "no ewok_filtered"},
    }
    table = tables(chapters(document({"babylm": {"ours": done(tasks)}})))["Table 2: BabyLM 2025"]
    blimp = row(table, "BLiMP")
    assert blimp["ours"] == "65.0 (63.0 to 67.0)" and blimp["beside them"] == "above the paper, above chance"
    assert row(table, "WUG, adj")["ours"].startswith("undefined")
    assert row(table, "EWoK")["ours"] == "not measured: no ewok_filtered"


def test_a_peer_is_run_here_or_marked_as_the_papers() -> None:
    first, second = PEERS[:2]
    here = {"key": f"peer {first.hub}", "role": "peer", "title": first.hub, "source": first.hub, "name": first.hub}
    away = {"key": f"peer {second.hub}", "role": "peer", "title": second.hub, "source": second.hub, "name": second.hub}
    results = {
        "tasks": {
            here["key"]: done(dict.fromkeys(TABLE_1, task(0.5))),
            away["key"]: absent("the Hub cannot be reached"),
        }
    }
    table = tables(chapters(document(results, here, away)))["Table 1: other low-bit models"]
    assert row(table, first.name)["source"] == "run here" and row(table, first.name)["MMLU"].startswith("50.0")
    other = row(table, second.name)
    assert (
        other["source"] == "the paper's figures, not run here; the Hub cannot be reached" and other["MMLU"] == "25.47"
    )
    assert len(table.rows) == 2 + len(PEERS)


def test_memory_on_less_off() -> None:
    better = {"unit": "u", "better": "higher", "units": 9, "memory": "helps"}
    gain = {"off": {"value": 0.01, "low": 0.005, "high": 0.015}}
    ablation = {
        "rows": [
            {"task": "grammar", "measure": "minimal pairs", "figures": {"on": 0.6, "off": 0.59}, "on_minus": gain},
            {"task": "speed", "measure": "a token, context 256", "figures": {"on": 0.5, "off": 0.4}, "on_minus": {}},
            {"task": "RAM", "measure": "process", "figures": {"on": 50.0, "off": 49.0}, "on_minus": {}},
        ],
        "conclusion": ["it helps"], "left_out": {}, "variants": {},
    }  # fmt: skip
    ablation["rows"] = [{**better, **each} for each in ablation["rows"]]
    on = {"comps": {"status": "done", "scores": {"comps": score(0.60)}}}
    off = {"comps": {"status": "done", "scores": {"comps": score(0.50)}}}
    results = {
        "ablation": {"ours": done(ablation)}, "babylm": {"ours": done(on)}, "without_memory": {"ours": done(off)},
    }  # fmt: skip
    found = tables(chapters(document(results)))
    table = found["Table 4: memory on less memory off"]
    assert len(table.rows) == len(TABLE_4)
    assert row(table, "BLiMP")["ours"] == "+1.00" and row(table, "BLiMP")["says"] == "helps"
    comps = row(table, "COMPS")
    assert comps["ours"] == "+10.00" and comps["95 %"] == "7.17 to 12.83"
    assert "not measured" in row(table, "VQA")["ours"]
    speed = found["Table 3: speed, energy and RAM, memory on and off"]
    assert row(speed, "tokens")["ours, memory on"] == "2,000" and row(speed, "RAM")["ours, off"] == "49.0"


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_verdict_names_one_side(a: float, b: float, reference: float) -> None:
    found = {"value": a, "low": min(a, b), "high": max(a, b)}
    said = verdict(found, 1, {"it": reference, "nothing": None})
    place = "above" if reference < found["low"] else "below" if reference > found["high"] else "at"
    assert said.text == f"{place} it" and said.beside == {"it": place}
    assert said.kind == {"above": "good", "below": "bad", "at": "text"}[place]


def test_naming_has_its_risk_and_its_picture() -> None:
    naming = {
        "named": share(0.6), "by_label": {"dog": [3, 5]}, "photos": 5, "unknown": {"thing": 2}, "picture": "c.png",
        "calibration_error": 0.1, "by_coverage": {"50%": 0.75, "100%": 0.6}, "reliability": [],
    }  # fmt: skip
    pictures = chapters(document({"naming": {"ours": done(naming)}}))[1]
    found = tables([pictures])
    assert (
        row(found["Naming the thing"], "mean")["named, %"].startswith("60.0")
        and "2 photos" in found["Naming the thing"].note
    )
    assert row(found["Risk against coverage"], "the surest 50%")["name another thing, %"] == "25.0"
    assert "c.png" in [picture.file for picture in pictures.pictures]
