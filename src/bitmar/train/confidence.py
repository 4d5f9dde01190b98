"""A finished run's model learns how far its captions can be trusted, from photos that its concept bank has not seen."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bitmar.api import BitMar, load
from bitmar.console import progress
from bitmar.core.container import with_tensors
from bitmar.core.tensors import CONCEPTS, CONFIDENCE, scale_name
from bitmar.core.ternary import quantize_rows
from bitmar.data.concepts.bank import ConceptBank
from bitmar.data.concepts.label_captions import label_of
from bitmar.data.towers import load_tower
from bitmar.evaluate.confidence import Lessons
from bitmar.evaluate.nothing import nothing
from bitmar.train.concepts import HELD_OUT
from bitmar.train.sources import concepts_of
from bitmar.train.stages import Fit
from bitmar.train.workspace import Workspace


def calibrate_captions(path: Path, stage: Fit, workspace: Workspace) -> None:
    """Puts the confidence of captions into a packed model that has concepts; one without stays as it is.

    Its lessons are the validation photos; labelled ones that a bank in place of its own was fitted without, since its
    own knows them; and pictures of nothing.
    """
    concepts = concepts_of(stage, workspace)
    if concepts is None:
        return
    model, lessons, data = load(path), Lessons(), workspace.recipe.data
    with progress(to=workspace.console) as bar:
        if data.validation:
            photos = workspace.validation_features(stage)
            for i in bar.track(range(len(photos)), description="confidence, validation"):
                lessons.of_captions(model, model.encode_image(features=photos.features(i, 0)), photos[i].captions)
        if data.labelled:
            photos = concepts.features("labelled")
            with TemporaryDirectory() as folder:
                blind = with_bank(model, ConceptBank.load(concepts.held_out), Path(folder) / "held-out.bitmar")
                held = range(HELD_OUT, len(photos), concepts.stage.folds)
                for i in bar.track(held, description="confidence, labelled"):
                    image = blind.encode_image(features=photos.features(i, 0))
                    lessons.of_label(blind, image, label_of(photos[i].meta))
    if not lessons.right:
        return
    known, right = len(lessons.right), sum(lessons.right)
    tower = load_tower(str(stage.tower))
    for picture in nothing():
        pixels = np.asarray(picture.resize((tower.size, tower.size)), np.uint8)
        lessons.of_nothing(model, model.encode_image(features=tower(pixels[None])[0]))
    with_tensors(model.container, {CONFIDENCE: lessons.weights()}, path)
    workspace.console.print(f"confidence of captions: from {known} photos, {right / known:.1%} right")


def with_bank(model: BitMar, bank: ConceptBank, path: Path) -> BitMar:
    """The model with the keys of another bank of the same concepts, packed into `path`."""
    codes, scale = quantize_rows(bank.keys)
    keys = f"{CONCEPTS}.keys"
    with_tensors(model.container, {keys: codes, scale_name(keys): scale, f"{CONCEPTS}.bias": bank.bias}, path)
    return load(path)
