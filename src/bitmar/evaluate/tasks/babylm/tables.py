"""Table 2 of the paper, lower half: BabyLM's tasks, and its organisers' baselines for scale."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bitmar.evaluate.paper import BABYLM, BITMAR, ORGANISERS, TASK_OF, UNSCALED, reported
from bitmar.evaluate.tables import Cell, Cells, Results, Table, missing, number, ranged, verdict
from bitmar.evaluate.tasks.zero_shot.tables import BESIDE


def tables(found: Results) -> Iterator[Table]:
    """Ours, score by score; and in a report the baselines."""
    scores = _scores(found, "ours")
    papers = {**BABYLM, **{score: (score, None) for score in sorted(scores.keys() - BABYLM.keys())}}
    rows = [_row(found, score, *about) for score, about in papers.items() if found.whole or score in scores]
    head = ["task", BITMAR, "chance", *(each["title"] for each in found.contestants), "items", "ties", BESIDE]
    note = (
        "Equal scores of both sentences count half, where the pipeline counts them as right; ties: their share. "
        "Reading: share of variance, in %. WUG: rank correlation with people, not times 100."
    )
    yield Table("Table 2: BabyLM 2025", head, rows, note)
    if found.whole:
        yield _organisers(scores)


def _organisers(scores: dict[str, Any]) -> Table:
    names = [name for name in BABYLM if any(name in values for values in ORGANISERS.values())]
    rows: list[Cells] = [
        [title, *(number(values.get(name), 2) for name in (*names, "devbench"))] for title, values in ORGANISERS.items()
    ]
    rows.append(["ours", *(_times_100(scores.get(name)) for name in names), ""])
    return Table(
        "For scale: the BabyLM 2025 organisers' baselines",
        ["model", *(BABYLM[name][0] for name in names), "DevBench"],
        rows,
        "Their figures are from their evaluation repository, not run here; all times 100, as the pipeline prints.",
    )


def _times_100(score: dict[str, Any] | None) -> Cell:
    return number(None if score is None or score["score"] is None else 100 * score["score"], 2)


def _scores(found: Results, contestant: str) -> dict[str, Any]:
    """By score's name, of all tasks that are done."""
    tasks = (found.get("babylm", contestant) or {}).values()
    return {name: score for task in tasks for name, score in task.get("scores", {}).items()}


def _row(found: Results, score: str, name: str, paper: float | None) -> Cells:
    scale, digits = (1, 2) if score in UNSCALED else (100, 1)
    cells = [_cell(found, each["key"], score, scale, digits) for each in found.contestants]
    ours = _scores(found, "ours").get(score)
    if ours is None:
        return [name, reported(paper), "", *cells, "", "", ""]
    chance = scale * ours["chance"]
    return [
        name, reported(paper), number(chance, digits), *cells, number(ours["n"], 0),
        number(100 * ours["tie_share"], 2, " %"), verdict(ours, scale, {"the paper": paper, "chance": chance}),
    ]  # fmt: skip


def _cell(found: Results, contestant: str, score: str, scale: float, digits: int) -> Cell:
    tasks = found.get("babylm", contestant)
    if tasks is None:
        return found.missing("babylm", contestant)
    value = _scores(found, contestant).get(score)
    if value is None:
        task = tasks.get(TASK_OF.get(score, score))
        return missing(task["message"] if task and "message" in task else "no data")
    return ranged({**value, "value": value["score"]}, scale, digits)
