"""The paper's Figures 2 and 3: the memory's slots and the weights, along the training where that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitmar.core.errors import FormatError
from bitmar.evaluate.folder import READ_TEXTS, Absent, EvalData, files_of
from bitmar.evaluate.protocol import Scorer
from bitmar.evaluate.scorer import packed
from bitmar.evaluate.tables import Picture, Results, number
from bitmar.evaluate.task import Options
from bitmar.evaluate.tasks.memory import with_memory
from bitmar.evaluate.work import Work
from bitmar.plots.canvas import save
from bitmar.plots.memory import LOGGED_SERIES, draw_memory
from bitmar.plots.quantization import LOGGED, draw_quantization
from bitmar.plots.slots import held, passages, read, usage_along
from bitmar.plots.snapshots import course, snapshots, untrained
from bitmar.plots.zeros import NOTED, zeros_of_model, zeros_of_run
from bitmar.train.runs import LOG, is_run


def run_of(source: EvalData) -> dict[str, Any]:
    """The training run, if one was named."""
    if source.run is not None and not is_run(source.run):
        raise FormatError(f"{source.run} is no training run: name the folder that `bitmar train` writes its stages to")
    return {"run": source.run}


def logs(options: Options) -> list[Path]:
    """Figures that a run logged of itself."""
    run = options["run"]
    return [] if run is None else sorted({*run.glob(f"*/{LOG}"), *run.glob(f"*/{NOTED}")})


def passages_of(source: EvalData) -> dict[str, Any]:
    """Captions with their photos, texts, and the run."""
    found = {**run_of(source), "text": source.texts(READ_TEXTS)}
    with suppress(Absent):
        found["data"] = source.shards()
    return found


def passages_and_logs(options: Options) -> list[Path]:
    """All that `slots` reads."""
    return [*files_of(*options.get("data", ()), *options["text"]), *logs(options)]


def slots(
    scorer: Scorer, work: Work, *, run: Path | None, text: Sequence[str], data: Sequence[str] = ()
) -> dict[str, Any]:
    """Figure 2: which slots held-out texts read, early and late in a run if there is one; how the slots are used."""
    model = with_memory(scorer)
    models = {model.path.name: model}
    if run is not None:
        kept = snapshots(run)
        first = untrained(kept[0])
        early = {} if first is None else {"before training": first}
        models = {**early, **{str(one): one.open() for one in dict.fromkeys((kept[0], kept[-1]))}}
        model = list(models.values())[-1]
    sighted = all(each.engine.tower is not None for each in models.values())
    found = passages(data, text, photos=sighted, on_bad=work.on_bad)
    work.on_step("passages", 0, (len(models) + (run is None)) * len(found))

    def tick() -> None:
        work.on_step("passages", None, None)

    readings = [read(name, each, found, None, tick) for name, each in models.items()]
    use: Any = course(run, tuple(LOGGED_SERIES)) if run is not None else None
    if not use:
        use = usage_along(model, found, None, tick)
    drawn = draw_memory(
        f"Episodic memory of {_name(scorer, run)}", readings, found, held(readings[-1], found, None), use
    )
    assert work.figures is not None
    save(drawn, work.figures / "memory.png")
    half = {reading.name: reading.needed for reading in readings}
    return {"picture": "memory.png", "models": list(models), "passages": len(found), "slots_of_half_the_reads": half}


def slots_picture(found: Results) -> Iterator[Picture]:
    """Figure 2."""
    drawn, title = found.get("slots"), "Figure 2: what reads the memory's slots"
    if drawn is None:
        yield Picture(title, "", found.missing("slots").text)
        return
    said = "; ".join(f"{name}: {count}" for name, count in drawn["slots_of_half_the_reads"].items())
    note = f"{drawn['passages']} held-out passages. Slots that get half of all reads: {said}."
    yield Picture(title, drawn["picture"], note)


def zeros(scorer: Scorer, work: Work, *, run: Path | None) -> dict[str, Any]:
    """Figure 3: the share of zero weights."""
    matrices = zeros_of_run(run) if run is not None else []
    matrices = matrices or zeros_of_model(packed(scorer).container)
    along = course(run, (LOGGED,)) if run is not None else None
    assert work.figures is not None
    save(draw_quantization(f"Quantisation of {_name(scorer, run)}", matrices, along), work.figures / "quantization.png")
    weights = sum(matrix.weights for matrix in matrices)
    return {
        "picture": "quantization.png",
        "matrices": len(matrices),
        "mean": sum(matrix.zeros for matrix in matrices) / len(matrices),
        "of_all_weights": sum(matrix.zeros * matrix.weights for matrix in matrices) / weights,
    }


def zeros_picture(found: Results) -> Iterator[Picture]:
    """Figure 3."""
    drawn, title = found.get("zeros"), "Figure 3: share of zero weights"
    if drawn is None:
        yield Picture(title, "", found.missing("zeros").text)
        return
    note = (
        f"Zeros among ternary weights: {number(100 * drawn['mean'])} % as the mean of {drawn['matrices']} matrices, "
        f"{number(100 * drawn['of_all_weights'])} % of all their weights; the paper ends at 42.8 %. Gaussian weights "
        "have 31 % before any training."
    )
    yield Picture(title, drawn["picture"], note)


def _name(scorer: Scorer, run: Path | None) -> str:
    return run.name if run is not None else packed(scorer).path.name
