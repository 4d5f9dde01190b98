"""The report's chapters, from what the sections found."""

from __future__ import annotations

from typing import Any

from bitmar.report.layout import BESIDE, MISSING, Chapter, Picture, Results, Table, between, number, ranged, verdict
from bitmar.report.paper import (
    BABYLM,
    BESIDE_TABLE_1,
    FINETUNED,
    ORGANISERS,
    PEERS,
    SAMPLED,
    TABLE_1,
    TASK_OF,
    UNSCALED,
)
from bitmar.report.tables_memory import memory_chapter, speed_chapter
from bitmar.report.tables_notes import notes_chapters, probes_chapter
from bitmar.report.tables_pictures import pictures_chapter

PAPER = "paper: BitMar-14M"


def chapters(document: dict[str, Any]) -> list[Chapter]:
    """All of them, also where nothing was measured: a row that is missing says why."""
    found = Results(document)
    return [
        Chapter("Language", _language_text(), [*_zero_shot(found), *_babylm(found)]),
        pictures_chapter(found),
        speed_chapter(found),
        memory_chapter(found),
        Chapter("Weights", [], [], _zeros(found)),
        probes_chapter(found),
        *notes_chapters(found),
    ]


def _language_text() -> list[str]:
    return [
        "Accuracies in %, each with its 95 % interval. Chance: drawing among the choices. Commonest: always the "
        "answer that is most often right, known beforehand. The last column says where our interval lies: above or "
        "below another figure as a whole, or at it.",
        "No figure of the paper was measured here; they are printed as the paper has them.",
    ]


def _columns(found: Results) -> list[str]:
    return [each["title"] for each in found.contestants]


def _zero_shot(found: Results) -> list[Table]:
    rows = [_task_row(found, task, name, paper) for task, (name, paper) in TABLE_1.items()]
    rows += [_task_row(found, task, name, None) for task, name in BESIDE_TABLE_1.items()]
    head = ["task", PAPER, "chance", "commonest", *_columns(found), "ours, by length", "questions", BESIDE]
    note = "By length: right by log-probability per character, where the harness counts that too."
    return [Table("Table 1: zero-shot tasks", head, rows, note), _peers(found)]


def _task_row(found: Results, task: str, name: str, paper: float | None) -> list[str]:
    ours = (found.get("tasks") or {}).get(task)
    cells = [_task_cell(found, each["key"], task) for each in found.contestants]
    label = f"{name} ({SAMPLED[task]})" if task in SAMPLED else name
    if ours is None or ours["status"] != "done":
        return [label, _paper(paper), "", "", *cells, "", "", ""]
    chance = ours["chance"] if ours["chance"]["uniform"] else {"uniform": None, "majority": None}
    uniform, majority = (None if share is None else 100 * share for share in (chance["uniform"], chance["majority"]))
    low, high = 100 * ours["acc"]["low"], 100 * ours["acc"]["high"]
    said = verdict(low, high, {"the paper": paper, "chance": uniform, "the commonest": majority})
    if "perplexity" in ours:
        label = f"{label} (perplexity {number(ours['perplexity'])})"
    by_length = ranged(ours.get("acc_norm"), 100)
    return [
        label, _paper(paper), number(uniform), number(majority), *cells, by_length, number(ours["n"], 0), said,
    ]  # fmt: skip


def _task_cell(found: Results, contestant: str, task: str) -> str:
    tasks = found.get("tasks", contestant)
    if tasks is None:
        return found.missing("tasks", contestant)
    result = tasks.get(task)
    if result is None:
        return f"{MISSING}: not asked"
    return ranged(result["acc"], 100) if result["status"] == "done" else f"{MISSING}: {result['message']}"


def _paper(value: float | None) -> str:
    return "not reported" if value is None else number(value, 2)


def _peers(found: Results) -> Table:
    """A row for each model of Table 1: run here by its name on the Hub, or else the paper's figures, marked so."""
    rows, here = [], {each["source"]: each["key"] for each in found.peers}
    for each in found.contestants[:1]:
        rows.append([each["title"], "run here", *(_task_cell(found, each["key"], task) for task in TABLE_1)])
    paper = [number(value, 2) for _, value in TABLE_1.values()]
    rows.append(["BitMar-14M", "the paper's figures, not run here", *paper])
    for peer in PEERS:
        key = here.pop(peer.hub, None)
        if key is not None and found.get("tasks", key) is not None:
            rows.append([f"{peer.name} ({peer.hub})", "run here", *(_task_cell(found, key, t) for t in TABLE_1)])
            continue
        reason = f"; {found.why('tasks', key)}" if key is not None else ""
        rows.append([peer.name, f"the paper's figures, not run here{reason}", *(number(x, 2) for x in peer.accuracies)])
    for source, key in here.items():
        rows.append([source, "run here", *(_task_cell(found, key, task) for task in TABLE_1)])
    note = "`--peer NAME` runs another causal language model of the Hub on the same files: " + ", ".join(
        f"{peer.hub} for {peer.name}" for peer in PEERS
    )
    return Table("Table 1: other low-bit models", ["model", "source", *(n for n, _ in TABLE_1.values())], rows, note)


def _babylm(found: Results) -> list[Table]:
    head = ["task", PAPER, "chance", *_columns(found), "items", "ties", BESIDE]
    rows = [_finetuned_row(found, task, name, paper) for task, (name, paper) in FINETUNED.items()]
    rows += [_score_row(found, score, name, paper) for score, (name, paper) in BABYLM.items()]
    listed = {*BABYLM, *_scores(found, "ours")}
    rows += [_score_row(found, score, score, None) for score in sorted(listed - BABYLM.keys())]
    note = (
        "Fine-tuned: chance is the share of the commonest class in training; the model that was fine-tuned is named in "
        "its report. Equal scores of both sentences count half, where the pipeline counts them as right; "
        "ties: their share. Reading: share of variance, in %. WUG: rank correlation with people, not times 100."
    )
    names = [name for name in BABYLM if any(name in values for values in ORGANISERS.values())]
    scale = [
        [title, *(number(values.get(name), 2) for name in (*names, "devbench"))] for title, values in ORGANISERS.items()
    ]
    ours = [_times_100(_scores(found, "ours").get(name)) for name in names]
    return [
        Table("Table 2: BabyLM 2025", head, rows, note),
        Table(
            "For scale: the BabyLM 2025 organisers' baselines",
            ["model", *(BABYLM[name][0] for name in names), "DevBench"],
            [*scale, ["ours", *ours, ""]],
            "Their figures are from their evaluation repository, not run here; all times 100, as the pipeline prints.",
        ),
    ]


def _times_100(score: dict[str, Any] | None) -> str:
    return "" if score is None or score["score"] is None else number(100 * score["score"], 2)


def _scores(found: Results, contestant: str) -> dict[str, Any]:
    """By score's name, of all tasks that are done."""
    tasks = (found.get("babylm", contestant) or {}).values()
    return {name: score for task in tasks for name, score in task.get("scores", {}).items()}


def _score_row(found: Results, score: str, name: str, paper: float | None) -> list[str]:
    scale, digits = (1, 2) if score in UNSCALED else (100, 1)
    cells = [_score_cell(found, each["key"], score, scale, digits) for each in found.contestants]
    ours = _scores(found, "ours").get(score)
    if ours is None:
        return [name, _paper(paper), "", *cells, "", "", ""]
    chance, said = scale * ours["chance"], "undefined"
    if ours["low"] is not None:
        said = verdict(scale * ours["low"], scale * ours["high"], {"the paper": paper, "chance": chance})
    return [
        name, _paper(paper), number(chance, digits), *cells, number(ours["n"], 0),
        f"{number(100 * ours['tie_share'], 2)} %", said,
    ]  # fmt: skip


def _score_cell(found: Results, contestant: str, score: str, scale: float, digits: int) -> str:
    tasks = found.get("babylm", contestant)
    if tasks is None:
        return found.missing("babylm", contestant)
    value = _scores(found, contestant).get(score)
    if value is None:
        task = tasks.get(TASK_OF.get(score, score))
        return f"{MISSING}: {task['message'] if task and 'message' in task else 'no data'}"
    if value["score"] is None:
        return "undefined: the model's answers do not differ"
    interval = between(scale * value["low"], scale * value["high"], digits)
    return f"{number(scale * value['score'], digits)} ({interval})"


def _finetuned_row(found: Results, task: str, name: str, paper: float) -> list[str]:
    columns, label = found.contestants, f"{name}, fine-tuned"
    reports = found.get("finetuned")
    report = (reports or {}).get(task)
    if report is None:
        reason = found.why("finetuned") if reports is None else f"no finished fine-tuning of {task}"
        return [label, _paper(paper), "", f"{MISSING}: {reason}", *[""] * (len(columns) - 1), "", "", ""]
    accuracy, majority = report["mean"]["accuracy"], 100 * report["majority"]["accuracy"]
    low, high = 100 * accuracy["low"], 100 * accuracy["high"]
    said = verdict(low, high, {"the paper": paper, "the commonest": majority})
    cell = f"{ranged(accuracy, 100)}, {len(report['seeds'])} seed{'s' if len(report['seeds']) > 1 else ''}"
    return [
        label, _paper(paper), number(majority), cell, *[""] * (len(columns) - 1), number(report["items"], 0), "", said,
    ]  # fmt: skip


def _zeros(found: Results) -> list[Picture]:
    zeros = found.get("zeros")
    if zeros is None:
        return [Picture("Figure 3: share of zero weights", "", found.missing("zeros"))]
    note = (
        f"Zeros among ternary weights: {number(100 * zeros['mean'])} % as the mean of {zeros['matrices']} matrices, "
        f"{number(100 * zeros['of_all_weights'])} % of all their weights; the paper ends at 42.8 %. Gaussian weights "
        "have 31 % before any training."
    )
    return [Picture("Figure 3: share of zero weights", zeros["picture"], note)]
