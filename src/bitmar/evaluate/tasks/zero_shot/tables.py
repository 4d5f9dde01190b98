"""Table 1 of the paper: zero-shot tasks, and other low-bit models beside ours."""

from __future__ import annotations

from collections.abc import Iterator

from bitmar.evaluate.paper import BESIDE_TABLE_1, BITMAR, PEERS, SAMPLED, TABLE_1, reported
from bitmar.evaluate.tables import Cell, Cells, Results, Table, missing, number, ranged, verdict

BESIDE = "beside them"
"""Head of the column that says where our figure lies beside the others in its row."""


def tables(found: Results) -> Iterator[Table]:
    """Ours, task by task; and in a report those of other models."""
    papers: dict[str, tuple[str, float | None]] = {
        **TABLE_1,
        **{task: (name, None) for task, name in BESIDE_TABLE_1.items()},
    }
    ours = found.get("tasks") or {}
    papers |= {task: (task.removeprefix("bitmar_"), None) for task in ours if task not in papers}
    rows = [_row(found, task, *about) for task, about in papers.items() if found.whole or task in ours]
    titles = [each["title"] for each in found.contestants]
    head = ["task", BITMAR, "chance", "commonest", *titles, "ours, by length", "questions", "ties", BESIDE]
    note = "By length: right by log-probability per character, where the harness counts that too."
    yield Table("Table 1: zero-shot tasks", head, rows, note)
    if found.whole:
        yield _peers(found)


def _row(found: Results, task: str, name: str, paper: float | None) -> Cells:
    ours = (found.get("tasks") or {}).get(task)
    cells = [_cell(found, each["key"], task) for each in found.contestants]
    label = f"{name} ({SAMPLED[task]})" if task in SAMPLED else name
    if ours is None or ours["status"] != "done":
        return [label, reported(paper), "", "", *cells, "", "", "", ""]
    chances = ours["chance"] if ours["chance"]["uniform"] else {"uniform": None, "majority": None}
    uniform, majority = (
        None if (chance := chances[name]) is None else 100 * chance for name in ("uniform", "majority")
    )
    if "perplexity" in ours:
        label = f"{label} (perplexity {number(ours['perplexity'])})"
    return [
        label, reported(paper), number(uniform), number(majority), *cells, ranged(ours.get("acc_norm"), 100),
        number(ours["n"], 0), number(100 * ours.get("ties", 0) / ours["n"], 1, " %"),
        verdict(ours["acc"], 100, {"the paper": paper, "chance": uniform, "the commonest": majority}),
    ]  # fmt: skip


def _cell(found: Results, contestant: str, task: str) -> Cell:
    tasks = found.get("tasks", contestant)
    if tasks is None:
        return found.missing("tasks", contestant)
    result = tasks.get(task)
    if result is None:
        return missing("not asked")
    return ranged(result["acc"], 100) if result["status"] == "done" else missing(result["message"])


def _peers(found: Results) -> Table:
    """A row for each model of Table 1: run here by its name on the Hub, or else the paper's figures, marked so."""
    rows: list[Cells] = []
    here = {each["source"]: each["key"] for each in found.peers}

    def run_here(name: str, key: str) -> None:
        rows.append([name, "run here", *(_cell(found, key, task) for task in TABLE_1)])

    for each in found.contestants[:1]:
        run_here(each["title"], each["key"])
    rows.append(["BitMar-14M", "the paper's figures, not run here", *(number(x, 2) for _, x in TABLE_1.values())])
    for peer in PEERS:
        key = here.pop(peer.hub, None)
        if key is not None and found.get("tasks", key) is not None:
            run_here(f"{peer.name} ({peer.hub})", key)
            continue
        reason = f"; {found.why('tasks', key)}" if key is not None else ""
        rows.append([peer.name, f"the paper's figures, not run here{reason}", *(number(x, 2) for x in peer.accuracies)])
    for source, key in here.items():
        run_here(source, key)
    note = "`--peer NAME` runs another causal language model of the Hub on the same files: " + ", ".join(
        f"{peer.hub} for {peer.name}" for peer in PEERS
    )
    return Table(
        "Table 1: other low-bit models", ["model", "source", *(name for name, _ in TABLE_1.values())], rows, note
    )
