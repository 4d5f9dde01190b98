"""Tables 3 and 4 of the paper, Figure 2, and what the memory is measured by here."""

from __future__ import annotations

import math
from typing import Any

from bitmar.evaluate.ablation_costs import CONTEXT
from bitmar.report.layout import MISSING, Chapter, Picture, Results, Table, between, number, signed
from bitmar.report.paper import TABLE_3, TABLE_4

_MISSING_4 = "needs BabyLM's data for it"


def speed_chapter(found: Results) -> Chapter:
    """Table 3, and more on speed."""
    text = ["One thread, on the machine named below."]
    loads = {name: found.load(name) for name in ("speed", "ablation")}
    cores = found.document["machine"]["cores"]
    text += [
        f"The machine was busy when `{name}` was measured, {load:g} processes on {cores} cores: times are not its best."
        for name, load in loads.items()
        if load is not None and load > cores
    ]
    return Chapter("Efficiency", text, [_table_3(found), _speed(found)])


def _table_3(found: Results) -> Table:
    costs = {
        row["measure"]: row
        for row in (found.get("ablation") or {"rows": []})["rows"]
        if row["task"] in ("speed", "RAM")
    }
    step = next((row for name, row in costs.items() if name.startswith("a token")), None)
    ram = next((row for row in costs.values() if row["task"] == "RAM"), None)
    speed = found.get("speed")
    joules = None if speed is None else speed.get("joules_per_token")
    missing = found.missing("ablation")
    ours: dict[str, tuple[str, str]] = {
        "tokens a second": _pair(step, lambda ms: number(1000 / ms, 0)) or (missing, missing),
        "ms a token": _pair(step, lambda ms: number(ms, 3)) or (missing, missing),
        "J a token": (
            number(joules, 4) if joules is not None else f"{MISSING}: no energy counter can be read here",
            f"{MISSING}: it is read with the memory on alone",
        ),
        "RAM, MB": _pair(ram, number) or (missing, missing),
    }
    rows = [[name, number(on, 2), number(off, 2), *ours[name]] for name, (on, off) in TABLE_3.items()]
    head = ["", "paper, memory on", "paper, off", "ours, memory on", "ours, off"]
    note = (
        f"Ours: same weights and same work but for the memory, after {CONTEXT} tokens of context; RAM is the peak "
        "of a process. On and off take turns token by token, so that both meet the same machine; each is slower so "
        "than alone. The paper's figures are of another machine, and its authors' code shows no such difference."
    )
    return Table("Table 3: speed, energy and RAM, memory on and off", head, rows, note)


def _pair(row: dict[str, Any] | None, shown: Any) -> tuple[str, str] | None:
    return None if row is None else (shown(row["figures"]["on"]), shown(row["figures"]["off"]))


def _speed(found: Results) -> Table:
    speed = found.get("speed")
    if speed is None:
        return Table("Speed of the engine", ["", "ours"], [], found.missing("speed"))
    rows = [
        *(
            [f"decode after {context} tokens, tokens/s", number(rate, 0)]
            for context, rate in speed["tokens_per_second"].items()
        ),
        ["reading a prompt, tokens/s", number(speed["prefill_tokens_per_second"], 0)],
        ["vision tower, ms", number(speed["photo_ms"], 2)],
        ["JPEG to caption, warm, ms", number(speed.get("caption_ms"), 2)],
        ["process to first token, s", number(speed["first_token_s"], 3)],
        ["peak RAM of that process, MB", number(speed["peak_rss_mb"])],
        ["share of a token's time that the memory takes, %", number(_percent(speed.get("memory_share")))],
        ["energy a token, J", number(speed.get("joules_per_token"), 4) or f"{MISSING}: no counter can be read here"],
    ]
    return Table(
        "Speed of the engine", ["", "ours"], rows, f"Engine: {speed['engine']}; medians; a made-up JPEG, 640 x 480."
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def memory_chapter(found: Results) -> Chapter:
    """Table 4, the whole ablation, and Figure 2."""
    ablation = found.get("ablation")
    chapter = Chapter("Memory", [], [_table_4(found)], [_slots(found)])
    if ablation is None:
        chapter.text.append(found.missing("ablation"))
        return chapter
    chapter.tables.append(Table("Memory on, off, and by the paper's literal equations", **ablation["table"]))
    words = [list(line.rpartition(": ")[::2]) for line in ablation["conclusion"]]
    words += [[f"{task}, left out", why] for task, why in ablation["left_out"].items()]
    chapter.tables.append(Table("The same in words", ["measure", "what it says"], words))
    variants = [[name, meaning] for name, meaning in ablation["variants"].items()]
    chapter.tables.append(Table("What on, off and the others are", ["memory", "meaning"], variants))
    return chapter


def _table_4(found: Results) -> Table:
    rows = [[name, signed(paper), *_gain(found, task)] for task, (name, paper) in TABLE_4.items()]
    note = "Points of accuracy. BLiMP: pair by pair; the others from two runs, whose interval is wider than need be."
    return Table("Table 4: memory on less memory off", ["task", "paper", "ours", "95 %", "says"], rows, note)


def _gain(found: Results, task: str) -> list[str]:
    """Points, interval, and what that says."""
    if task == "blimp":
        rows = (found.get("ablation") or {"rows": []})["rows"]
        gain = next((row["on_minus"]["off"] for row in rows if row["task"] == "grammar"), None)
        if gain is None:
            return [found.missing("ablation") if found.get("ablation") is None else f"{MISSING}: no BLiMP", "", ""]
        return _signed(*(100 * gain[name] for name in ("value", "low", "high")))
    on, off = (
        (found.get(section) or {}).get(task, {}).get("scores", {}).get(task) for section in ("babylm", "without_memory")
    )
    if on is None or off is None:
        return [f"{MISSING}: {_MISSING_4}", "", ""]
    value = 100 * (on["score"] - off["score"])
    spread = 50 * math.hypot(on["high"] - on["low"], off["high"] - off["low"])
    return _signed(value, value - spread, value + spread)


def _signed(value: float, low: float, high: float) -> list[str]:
    says = "helps" if low > 0 else "hurts" if high < 0 else "no difference shown"
    return [f"{'+' if value > 0 else ''}{number(value, 2)}", between(low, high, 2), says]


def _slots(found: Results) -> Picture:
    slots = found.get("slots")
    title = "Figure 2: what reads the memory's slots"
    if slots is None:
        return Picture(title, "", found.missing("slots"))
    said = "; ".join(f"{name}: {count}" for name, count in slots["slots_of_half_the_reads"].items())
    return Picture(
        title, slots["picture"], f"{slots['passages']} held-out passages. Slots that get half of all reads: {said}."
    )
