"""`bitmar train` and `bitmar distill`: the stages of a recipe, one after the other, each done once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bitmar.core.errors import ConfigError, nearest
from bitmar.core.files import write_atomically
from bitmar.train.card import card_of
from bitmar.train.ranks import end_with_agent, is_main, shared, wait, writes_to
from bitmar.train.recipe import PACKED, Recipe
from bitmar.train.runs import FINISHED
from bitmar.train.stages import Concepts, Distill, Fit, Stage
from bitmar.train.workspace import Workspace

if TYPE_CHECKING:
    from bitmar.core.ternary import F32
    from bitmar.data.sources import OnBad


def run(recipe: Recipe, only: str | None = None, kind: type[Stage] | None = None, on_bad: OnBad | None = None) -> Path:
    """Runs what is not finished yet, exports the last fit stage to `output/model.bitmar`, and returns `output`.

    Args:
        only: name of the one stage to run; those it starts from must be finished. kind: run stages of this class alone.
        on_bad: gets the key of every photo that was left out, and why.
    """
    end_with_agent()
    output = Path(recipe.output)
    workspace = Workspace(recipe, on_bad)
    folders = {stage.name: output / stage.name for stage in recipe.stages}
    if only is not None and only not in folders:
        raise ConfigError(f"{recipe.path} has no stage {only!r}{nearest(only, folders)}")
    _take_in(recipe, folders, workspace)
    waiting = [
        stage
        for stage in recipe.stages
        if only in (None, stage.name)
        and (kind is None or isinstance(stage, kind))
        and not (folders[stage.name] / FINISHED).exists()
    ]
    if waiting:
        data = recipe.data
        for patterns in (data.captions, data.photos, data.validation, data.labelled, data.plain):
            workspace.check(patterns, data.text)
        workspace.check((), {path: {"path": path} for path in data.tagged})
    for stage in waiting:
        if isinstance(stage, Fit):
            workspace.check(stage.captions, stage.text)
            if (stage.start or "").endswith(PACKED) and not Path(str(stage.start)).is_file():
                raise ConfigError(f"stage {stage.name} starts from {stage.start}, which is not there")
    from bitmar.export import export_checkpoint  # after the checks: torch takes its time
    from bitmar.train.concept_stage import fit_concepts
    from bitmar.train.distill import distill
    from bitmar.train.fit import fit

    for stage in recipe.stages:
        folder = folders[stage.name]
        if (only is not None and stage.name != only) or (kind is not None and not isinstance(stage, kind)):
            continue
        if (folder / FINISHED).exists():
            workspace.console.print(f"{stage.name}: finished before, in {folder}")
            continue
        _check_predecessors(stage, folders)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(stage, Distill):
            distill(stage, workspace, folder)
        elif isinstance(stage, Concepts):
            fit_concepts(stage, workspace, folder)
        else:
            fit(stage, workspace, folders)
            if is_main():  # a stage can be exported on its own, and says then what it was trained on
                write_atomically(folder / "card.json", json.dumps(card_of(recipe), indent=2).encode())
                export_checkpoint(folder, folder / "model.bitmar", card=card_of(recipe))
        if is_main():
            write_atomically(folder / FINISHED, json.dumps({"recipe": recipe.path}).encode())
            if workspace.mirror is not None:
                workspace.mirror.push(folder)
        wait()
        _take_in(recipe, {stage.name: folder}, workspace)
    last = next((s for s in reversed(recipe.stages) if isinstance(s, Fit)), None)
    if last is not None and is_main() and (folders[last.name] / FINISHED).exists():
        packed = export(recipe, folders[last.name], output, workspace)
        if workspace.mirror is not None:
            workspace.mirror.push(packed)
    return output


def _take_in(recipe: Recipe, folders: dict[str, Path], workspace: Workspace) -> None:
    """Fetches what other machines have done, or this one before it lost its disk."""
    output = Path(recipe.output)
    if workspace.mirror is None:
        if not shared(output):
            raise ConfigError(
                f"the machines see different folders at {output}: give an address that all can reach, as "
                "`checkpoints: s3://bucket/run`, or put `output` on a common disk"
            )
        return
    if writes_to(output):
        for folder in folders.values():
            workspace.mirror.pull(folder)
    wait()


def _check_predecessors(stage: Stage, folders: dict[str, Path]) -> None:
    needed = (stage.start, stage.tower_from, stage.concepts) if isinstance(stage, Fit) else ()
    for name in needed:
        if name in folders and not (folders[name] / FINISHED).exists():
            raise ConfigError(f"stage {stage.name} starts from {name}, which is not finished: run that stage first")


def export(recipe: Recipe, folder: Path, output: Path, workspace: Workspace) -> Path:
    """Packs the last stage's checkpoint, with the recipe's card, to `output/model.bitmar`; calibrates its recall
    and the confidence of its captions."""
    from bitmar.carried import Carried
    from bitmar.core.container import open_container
    from bitmar.export import export_checkpoint
    from bitmar.train.confidence import calibrate_captions

    path = export_checkpoint(folder, output / "model.bitmar", card=card_of(recipe))
    last = next(stage for stage in recipe.stages if stage.name == folder.name)
    if isinstance(last, Fit) and last.pictures != "none":
        _calibrate(path, last, workspace)
        calibrate_captions(path, last, workspace)
        if last.pictures == "features":  # so that an export with a tower has them too
            Carried.of(open_container(path)).save(folder)
    workspace.console.print(f"packed {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return path


def _calibrate(path: Path, stage: Fit, workspace: Workspace) -> None:
    """Teaches the packed model how the stage's photos look to it: in views of its own, or with another network's
    features in those that were extracted."""
    from bitmar.api import load
    from bitmar.core.image import load_photo
    from bitmar.data.augment import view_rng
    from bitmar.runtime.tower import mean_features
    from bitmar.session.calibrate import ENOUGH, LEAST, background, pooled_views, with_background

    model = load(path)
    seen: Iterator[F32]
    if model.engine.tower is not None:
        photos = workspace.photos("train", stage.captions or workspace.recipe.data.captions)
        total = len(photos)
        seen = (
            pooled_views(model, load_photo(photos.photo(i)), view_rng(0, str(i), 0)) for i in _spread(total, ENOUGH)
        )
    else:
        features = workspace.captioned_features(stage)
        total = len(features)
        seen = (
            np.stack([mean_features(features.features(i, view)) for view in range(features.views)])
            for i in _spread(total, ENOUGH)
        )
    if total < LEAST or model.config.memory_integration == "off":
        return
    with_background(model.container, background(seen), path)


def _spread(total: int, most: int) -> range:
    """At most N of 0 .. total - 1, evenly spread."""
    return range(0, total, max(1, -(-total // most)))
