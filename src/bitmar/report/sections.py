"""The sections of a report: the table of tasks, and what only a report has, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitmar.core.errors import BitMarError
from bitmar.evaluate.folder import Absent, EvalData, find_source
from bitmar.evaluate.paper import FINETUNED, TABLE_3, TABLE_4, reported
from bitmar.evaluate.photos import readable_photos
from bitmar.evaluate.protocol import PictureScorer
from bitmar.evaluate.scorer import RuntimeScorer
from bitmar.evaluate.store import checksum
from bitmar.evaluate.table import TASKS
from bitmar.evaluate.tables import Cells, Picture, Results, Table, missing, number, ranged, verdict
from bitmar.evaluate.task import Options, Task, pick
from bitmar.evaluate.tasks import naming, speed
from bitmar.evaluate.tasks.babylm.registry import TASKS as BABYLM
from bitmar.evaluate.tasks.babylm.run import run_babylm
from bitmar.evaluate.tasks.memory import with_memory
from bitmar.evaluate.tasks.memory_tables import table_3
from bitmar.evaluate.tasks.memory_trials import OFF, variants
from bitmar.evaluate.tasks.zero_shot.tables import BESIDE
from bitmar.evaluate.work import Work
from bitmar.plots.canvas import save
from bitmar.plots.confidence import draw_confidence
from bitmar.plots.grid import Cell, write_grid
from bitmar.report import inside
from bitmar.train.finetune_report import REPORT, read_report

_GRID = 12  # photos
_REFERENCES = 2  # people's captions under each photo
_UNPAIRED = tuple(name for name in TABLE_4 if name != "blimp")  # BLiMP is compared pair by pair in the ablation


def _drawn_naming(scorer: PictureScorer, work: Work, *, data: list[str]) -> dict[str, Any]:
    """The task's result, and its picture where captions carry a confidence."""
    found = naming.run(scorer, work, data=data)
    if found["reliability"] is None:
        return found
    assert work.figures is not None
    file = f"confidence-{(checksum(scorer) or 'model')[:8]}.png"  # one for each model
    save(draw_confidence(f"Confidence of {Path(scorer.name).name}", found), work.figures / file)
    return {**found, "picture": file}


def _grid(scorer: PictureScorer, work: Work, *, data: list[str]) -> dict[str, Any]:
    """The first photos with the model's captions, and people's in grey: nobody has chosen them."""
    found = readable_photos(data, work.at_most(_GRID), work.on_bad)
    cells, progress = [], work.progress("photos", len(found))
    for sample, photo in found:
        (said,) = scorer.caption([photo])
        cells.append(Cell(photo, said, sample.captions[:_REFERENCES]))
        progress(len(cells))
    assert work.figures is not None
    write_grid(work.figures / "captions.jpg", cells)
    return {"picture": "captions.jpg", "photos": len(cells), "captions": [cell.caption for cell in cells]}


def _grid_picture(found: Results) -> Iterator[Picture]:
    grid = found.get("grid")
    if grid is None:
        yield Picture("Captions to look at", "", found.missing("grid").text)
        return
    note = f"The first {grid['photos']} photos of the shards, chosen by nobody; in grey what people wrote."
    yield Picture("Captions to look at", grid["picture"], note)


def _unpaired(source: EvalData) -> dict[str, Any]:
    data = TASKS["babylm"].files(source)["data"]
    if not any(find_source(data, BABYLM[name].folders) for name in _UNPAIRED):
        raise Absent(f"{data} has none of {', '.join(_UNPAIRED)}")
    return {"data": data}


def _without_memory(scorer: PictureScorer, work: Work, *, data: Path) -> dict[str, Any]:
    """BabyLM's tasks of Table 4 with the memory off, the weights the same."""
    return run_babylm(RuntimeScorer(variants(with_memory(scorer))[OFF]), data, _UNPAIRED, work)


def _finetunings(source: EvalData) -> dict[str, Any]:
    """The folder that was named. Absent if there is none, or nothing finished in it."""
    if source.finetuned is None:
        raise Absent("no --finetuned DIR: `bitmar finetune TASK --out DIR/TASK` makes one for each task")
    if not _reports({"finetuned": source.finetuned}):
        raise Absent(f"{source.finetuned} holds no finished fine-tuning (TASK/{REPORT})")
    return {"finetuned": source.finetuned}


def _reports(options: Options) -> list[Path]:
    return sorted({*options["finetuned"].glob(REPORT), *options["finetuned"].glob(f"*/{REPORT}")})


def _finetuned(scorer: PictureScorer, work: Work, *, finetuned: Path) -> dict[str, Any]:
    """By task the report of its fine-tuning; a damaged one is left out and named."""
    found = {}
    for path in _reports({"finetuned": finetuned}):
        try:
            report = read_report(path.parent)
        except BitMarError as error:
            work.on_bad(str(path), str(error))
        else:
            found[report.task] = report.to_dict()
    return found


def _finetuned_table(found: Results) -> Iterator[Table]:
    """Table 2, upper half."""
    rows: list[Cells] = []
    reports = found.get("finetuned")
    for task, (name, paper) in FINETUNED.items():
        report = (reports or {}).get(task)
        if report is None:
            reason = found.why("finetuned") if reports is None else f"no finished fine-tuning of {task}"
            rows.append([name, reported(paper), "", missing(reason), "", "", "", ""])
            continue
        accuracy, majority = report["mean"]["accuracy"], 100 * report["majority"]["accuracy"]
        said = verdict(accuracy, 100, {"the paper": paper, "the commonest": majority})
        rows.append(
            [name, reported(paper), number(majority), ranged(accuracy, 100), number(len(report["seeds"]), 0),
             report["training"], number(report["items"], 0), said]
        )  # fmt: skip
    head = ["task", "paper: BitMar-14M", "commonest", "ours", "seeds", "trained", "items", BESIDE]
    note = "Commonest: the share of the commonest class in training. Each report names the model that was fine-tuned."
    yield Table("Table 2: fine-tuning", head, rows, note)


def _nothing(_: EvalData) -> dict[str, Any]:
    return {}


def _shards(source: EvalData) -> dict[str, Any]:
    return {"data": source.shards()}


def _no_table(_: Results) -> Iterator[Table]:
    yield from ()


def _speed_tables(found: Results) -> Iterator[Table]:
    yield from table_3(found)
    yield from speed.tables(found)


def _tokens(limit: int | None) -> dict[str, Any]:
    return {} if limit is None else {"tokens": min(limit, speed.STEPS)}


_OWN: tuple[Task, ...] = (
    Task("grid", "Captions to look at", _grid, _shards, _grid_picture, chapter="Pictures", sees=True, fixed=2,
         sizes=lambda limit: {"limit": _GRID if limit is None else min(limit, _GRID)},
         command="bitmar caption {model} {options} --grid captions.jpg"),
    Task("zeros", "Figure 3, zero weights", inside.zeros, inside.run_of, inside.zeros_picture, chapter="Weights",
         fixed=3, reads=inside.logs, command="bitmar plot quantization {source} quantization.png"),
    Task("slots", "Figure 2, memory slots", inside.slots, inside.passages_of, inside.slots_picture, chapter="Memory",
         fixed=25, reads=inside.passages_and_logs, command="bitmar plot memory {source} {options} memory.png"),
    Task("speed", "Speed", speed.run, _nothing, _speed_tables, chapter="Efficiency", fixed=20, paper=TABLE_3,
         sizes=_tokens, command="bitmar bench {model} {options}"),
    Task("without_memory", "BabyLM 2025, memory off", _without_memory, _unpaired, _no_table, seconds=100, fixed=2,
         items=60000, parts=True, kept=lambda **_: {}, paper=TABLE_4,
         command="bitmar report {model} {folder} {limit} --only without_memory --out report"),
    Task("finetuned", "Fine-tuning", _finetuned, _finetunings, _finetuned_table, chapter="Language", fixed=0,
         reads=_reports, paper=FINETUNED, command="bitmar finetune TASK --model CHECKPOINT --out {finetuned}/TASK"),
)  # fmt: skip

_ORDER = ("probes", "grid", "zeros", "slots", "speed", "captions", "retrieval", "naming", "questions", "nlvr", "tasks",
          "babylm", "without_memory", "ablation", "finetuned")  # fmt: skip
_BY_NAME: dict[str, Task] = {
    **TASKS, "naming": replace(TASKS["naming"], run=_drawn_naming), **{task.name: task for task in _OWN},
}  # fmt: skip

SECTIONS: dict[str, Task] = {name: _BY_NAME[name] for name in _ORDER}


def find_sections(names: Sequence[str]) -> list[Task]:
    """The named sections in the report's order, all if none is named. An unknown one: ConfigError with the nearest."""
    return pick(names, SECTIONS, "section")
