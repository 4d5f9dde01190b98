"""BLiMP accuracy by the sum of log-probabilities, as BabyLM's pipeline computes it. The paper's model has 48.7 %.

python benchmarks/blimp.py --model runs/default/joint --json out/blimp.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from _machine import SHARED, publish, run, skip_without_shared_data

from bitmar.console import Skipped, progress, say
from bitmar.evaluate.blimp import evaluate_blimp, read_pairs
from bitmar.evaluate.scorer import load_scorer

DATA = SHARED / "eval" / "babylm2025" / "blimp_filtered.zip"
PAPER = 0.487


def main(
    model: Annotated[
        str | None, typer.Option(help="A checkpoint (fast) or .bitmar file. Default: the bundled one.")
    ] = None,
    data: Annotated[Path, typer.Option(help="BabyLM's blimp_filtered.zip, its folder, or one .jsonl.")] = DATA,
    engine: Annotated[str, typer.Option(help="auto, runtime, torch, or one of the runtime's.")] = "auto",
    every: Annotated[int, typer.Option(min=1, help="Take each n-th pair only, for a quick look.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Score the pairs of BLiMP."""
    skip_without_shared_data(data)
    scorer = load_scorer(model, engine)
    with progress() as bar:
        skipped = Skipped(bar)
        pairs = read_pairs(data, skipped)[::every]
        task = bar.add_task("sentences", total=2 * len(pairs))
        found = evaluate_blimp(scorer, pairs, on_progress=lambda done: bar.update(task, completed=done))
    say(f"{len(pairs)} pairs; {skipped}")
    figures = {"model": scorer.name, "scorer": type(scorer).__name__, "paper": PAPER, **found.to_dict()}
    details = {"by_file": figures.pop("by_file")}
    publish("blimp", figures, data=f"{data}, {len(pairs)} pairs", out=json, details=details)


if __name__ == "__main__":
    run(main)
