"""`bitmar train` and `bitmar distill`: the stages of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitmar.cli.app import MAKE, SKIPPED, command
from bitmar.cli.common import Assignments, RecipeFile, needs, resumable_training
from bitmar.console import Skipped, say


@command(
    "bitmar train recipes/smoke.yaml",
    "bitmar train recipes/default.yaml --stage mixed",
    "bitmar train recipes/smoke.yaml --set output=runs/wide --set model.hidden_size=256",
    "torchrun --nproc-per-node 4 -m bitmar train recipes/default.yaml",
    panel=MAKE,
    shards=True,
)
def train(
    recipe: RecipeFile,
    assignments: Assignments = None,
    stage: Annotated[str | None, typer.Option("--stage", metavar="NAME", help="Run this stage alone.")] = None,
) -> None:
    """Train a model: run the stages of RECIPE that are not finished, and pack the last one's model.

    What a stopped run has done is kept: the same command goes on from the last checkpoint. A processor core is enough;
    under torchrun it uses every GPU. If photos were skipped, they are named and the exit status is 1.
    """
    skipped = Skipped()
    with needs("train"):
        from bitmar.train.recipe import load_recipe
        from bitmar.train.run import run

        loaded = load_recipe(recipe, assignments or ())
        with resumable_training(Path(loaded.output)):
            output = run(loaded, only=stage, on_bad=skipped)
    if (output / "model.bitmar").exists():
        say(f"try it: bitmar caption PHOTO --model {output}")
    _report(skipped)


@command(
    "bitmar distill recipes/bitvit.yaml", "bitmar distill my.yaml --set stages.tower.rows=64", panel=MAKE, shards=True
)
def distill(recipe: RecipeFile, assignments: Assignments = None) -> None:
    """Train the vision tower alone: run the distill stages of RECIPE that are not finished."""
    skipped = Skipped()
    with needs("train"):
        from bitmar.core.errors import ConfigError
        from bitmar.train.recipe import load_recipe
        from bitmar.train.run import run
        from bitmar.train.stages import Distill

        loaded = load_recipe(recipe, assignments or ())
        if not any(isinstance(stage, Distill) for stage in loaded.stages):
            raise ConfigError(f"{recipe} has no stage of the kind distill; run it with `bitmar train {recipe}`")
        with resumable_training(Path(loaded.output)):
            run(loaded, kind=Distill, on_bad=skipped)
    _report(skipped)


def _report(skipped: Skipped) -> None:
    """Name the skipped photos, and end with the exit status for them."""
    from bitmar.train.ranks import is_main, world_size

    if skipped.reasons and is_main():
        say(str(skipped))
        if world_size() == 1:  # torchrun takes any other status than 0 for a crash, and starts all over
            raise typer.Exit(SKIPPED)
