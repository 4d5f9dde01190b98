"""Tables 3 and 4 of the paper, and all that the memory's ablation measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bitmar.evaluate.figure import Figure
from bitmar.evaluate.paper import TABLE_3, TABLE_4
from bitmar.evaluate.tables import (
    Cell,
    Cells,
    Results,
    Table,
    between,
    judged,
    markdown,
    missing,
    number,
    signed,
)
from bitmar.evaluate.tasks.memory_trials import (
    COMPARED,
    CONTEXT,
    LITERAL,
    OFF,
    ON,
    OTHERS,
    PERPLEXITY,
    UNRECITED,
    UNWRITTEN,
    says,
)

_SHOWN = (OFF, ON, LITERAL)
_CAPTION = "Memory on, off, and by the paper's literal equations"


def tables(found: Results) -> Iterator[Table]:
    """Table 4 where a report has what it takes, the whole ablation, and what it says in words."""
    if found.whole:
        yield _table_4(found)
    yield from found.empty("ablation", _CAPTION)
    if (ablation := found.get("ablation")) is None:
        return
    said = [*ablation["conclusion"], *(f"left out, {task}: {why}" for task, why in ablation["left_out"].items())]
    if not found.whole:
        yield _table(ablation, (OFF,), "\n".join(said))
    else:
        yield _table(ablation, COMPARED)
        yield Table(
            "The same in words", ["measure", "what it says"], [list(line.rpartition(": ")[::2]) for line in said]
        )
        variants = [[name, meaning] for name, meaning in ablation["variants"].items()]
        yield Table("What on, off and the others are", ["memory", "meaning"], variants)


def whole_table(ablation: Mapping[str, Any]) -> str:
    """The table in Markdown, what its columns mean, and the conclusion."""
    meaning = [f"- {name}: {text}." for name, text in ablation["variants"].items()]
    said = [f"- {line}" for line in ablation["conclusion"]]
    left_out = [f"- left out, {task}: {why}" for task, why in ablation["left_out"].items()]
    return "\n".join([*markdown(_table(ablation, COMPARED)), "", *meaning, "", *said, *left_out]) + "\n"


def conclusion(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each measure of quality, and one on chance."""
    judged_rows = [row for row in rows if not _is_cost(row)]
    said = [f"{row['task']}, {row['measure']}: {_sentence(row)}" for row in judged_rows]
    compared = sum(len(row["on_minus"]) for row in judged_rows)
    caution = f"of {compared} comparisons about {compared * 0.05:.0f} show a difference at 95 % by chance alone"
    return [*said, caution] if said else []


def _table(ablation: Mapping[str, Any], compared: Sequence[str], note: str = "") -> Table:
    differences = [f"on - {name} [95 %]" for name in compared]
    head = ["task", "unit", "n", *_SHOWN, *differences, "the memory", "what it holds"]
    rows: list[Cells] = []
    for row in ablation["rows"]:
        figures = [Cell(_short(row["figures"][name]) if name in row["figures"] else "", "number") for name in _SHOWN]
        shown = [_interval(row, name) for name in compared]
        verdicts = [_cost(row), ""] if _is_cost(row) else [judged(row["memory"]), judged(_content(row))]
        unit = f"{row['unit']} ({row['better']} is better)"
        rows.append([f"{row['task']}: {row['measure']}", unit, str(row["units"]), *figures, *shown, *verdicts])
    return Table(_CAPTION, head, rows, note)


def _is_cost(row: Mapping[str, Any]) -> bool:
    return row["task"] in ("speed", "RAM")


def _says(row: Mapping[str, Any], name: str) -> str:
    return says(Figure.read(row["on_minus"][name]), row["better"])


def _sentence(row: Mapping[str, Any]) -> str:
    told = {
        OFF: "the memory {}",
        UNWRITTEN: "writing into it {}",
        OTHERS: "holding the right episodes rather than others {}",
        UNRECITED: "copying what was recalled {}",
    }
    parts = [text.format(_shown(_says(row, name))) for name, text in told.items() if name in row["on_minus"]]
    if LITERAL in row["on_minus"]:
        better = {"helps": "better than", "hurts": "worse than"}.get(_says(row, LITERAL), "not told apart from")
        parts.append(f"it is {better} the literal rule")
    return ", ".join(parts)


def _shown(verdict: str) -> str:
    return "makes no difference that shows" if verdict.startswith("no ") else verdict


def _content(row: Mapping[str, Any]) -> str:
    """Whether it matters what has been written: the right episodes and not others, or at least something."""
    control = next((name for name in (OTHERS, UNWRITTEN) if name in row["on_minus"]), None)
    return _says(row, control) if control else ""


def _cost(row: Mapping[str, Any]) -> str:
    return f"costs {row['figures'][ON] / row['figures'][OFF] - 1:+.1%}"


def _short(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"


def _interval(row: Mapping[str, Any], name: str) -> Cell:
    if name not in row["on_minus"]:
        return Cell("", "number")
    found, form = Figure.read(row["on_minus"][name]), "+.1%" if row["unit"] == PERPLEXITY else "+.3g"
    if math.isnan(found.low):  # of a single unit
        return Cell(f"{found.value:{form}}", "number")
    return Cell(f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]", "number")


def table_3(found: Results) -> Iterator[Table]:
    """Speed, energy and RAM beside the paper's."""
    costs = [row for row in (found.get("ablation") or {"rows": []})["rows"] if _is_cost(row)]
    step = next((row for row in costs if row["measure"].startswith("a token")), None)
    ram = next((row for row in costs if row["task"] == "RAM"), None)
    joules = (found.get("speed") or {}).get("joules_per_token")

    def pair(row: Mapping[str, Any] | None, shown: Callable[[float], Cell]) -> list[Cell]:
        return [found.missing("ablation") if row is None else shown(row["figures"][name]) for name in (ON, OFF)]

    ours: dict[str, list[Cell]] = {
        "tokens a second": pair(step, lambda ms: number(1000 / ms, 0)),
        "ms a token": pair(step, lambda ms: number(ms, 3)),
        "J a token": [
            number(joules, 4) if joules is not None else missing("no energy counter can be read here"),
            missing("it is read with the memory on alone"),
        ],
        "RAM, MB": pair(ram, number),
    }
    rows: list[Cells] = [[name, number(on, 2), number(off, 2), *ours[name]] for name, (on, off) in TABLE_3.items()]
    head = ["", "paper, memory on", "paper, off", "ours, memory on", "ours, off"]
    note = (
        f"Ours: same weights and same work but for the memory, after {CONTEXT} tokens of context; RAM is the peak "
        "of a process. On and off take turns token by token, so that both meet the same machine; each is slower so "
        "than alone. The paper's figures are of another machine, and its authors' code shows no such difference."
    )
    yield Table("Table 3: speed, energy and RAM, memory on and off", head, rows, note)


def _table_4(found: Results) -> Table:
    rows: list[Cells] = [[name, signed(paper), *_gain(found, task)] for task, (name, paper) in TABLE_4.items()]
    note = "Points of accuracy. BLiMP: pair by pair; the others from two runs, whose interval is wider than need be."
    return Table("Table 4: memory on less memory off", ["task", "paper", "ours", "95 %", "says"], rows, note)


def _gain(found: Results, task: str) -> list[Cell]:
    """Points, interval, and what that says."""
    if task == "blimp":
        rows = (found.get("ablation") or {"rows": []})["rows"]
        gain = next((row["on_minus"][OFF] for row in rows if row["task"] == "grammar"), None)
        if gain is None:
            reason = found.missing("ablation") if found.get("ablation") is None else missing("no BLiMP")
            return [reason, Cell(""), Cell("")]
        return _signed({name: 100 * gain[name] for name in ("value", "low", "high")})
    on, off = (
        (found.get(name) or {}).get(task, {}).get("scores", {}).get(task) for name in ("babylm", "without_memory")
    )
    if on is None or off is None:
        return [missing("needs BabyLM's data for it"), Cell(""), Cell("")]
    value = 100 * (on["score"] - off["score"])
    spread = 50 * math.hypot(on["high"] - on["low"], off["high"] - off["low"])
    return _signed({"value": value, "low": value - spread, "high": value + spread})


def _signed(found: Mapping[str, float]) -> list[Cell]:
    verdict = "helps" if found["low"] > 0 else "hurts" if found["high"] < 0 else "no difference shown"
    return [number(found["value"], 2, plus=found["value"] > 0), between(found, digits=2), judged(verdict)]
