"""A model fitted to a folder of photos: what changes, what stands still, and what is not written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar import load
from bitmar.core.container import with_tensors
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.tensors import EMBEDDING, background_tensors, confidence_tensors

from ._pairs import make_pair, tokenizer

__all__ = ["make_pair", "tokenizer"]

for package in ("torch", "transformers", "pycocoevalcap"):
    pytest.importorskip(package, reason="adapting needs bitmar[train,eval]")
from bitmar.adapt import adapt  # noqa: E402  (imports torch)
from bitmar.train.adapting import Adapting  # noqa: E402

QUICK = Adapting(epochs=4, learning_rate=0.01, rows=4, threads=1)


@pytest.fixture
def model(make_pair: Callable[..., Any], tmp_path: Path) -> Any:
    """A tiny model that has all that a packed model can have."""
    container = make_pair(
        concepts=9, concept_classes=13, concept_tokens=4, concept_evidence=1.0, tower="one stage, gelu", vision_grid=6
    ).bitmar.container
    rng, changed = np.random.default_rng(0), {}
    for name, spec in (background_tensors(container.config) | confidence_tensors()).items():
        values = np.sort(rng.random(spec.shape))
        changed[name] = (100 * values).astype(np.int8) if spec.dtype == "I8" else values.astype(np.float32)
    with_tensors(container, changed, tmp_path / "model.bitmar")
    return load(tmp_path / "model.bitmar", engine="numpy")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(14):
        noise = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("The dog runs over the green grass.\nThe man runs.\n")
    return folder


def test_words_change_and_all_else_stands_still(model: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no photo")
    (photos / "broken.txt").write_text("A dog.")
    Image.new("RGB", (9, 9)).save(photos / "untold.png")
    out = tmp_path / "mine.bitmar"
    report = adapt([str(photos)], out, model, QUICK)
    assert (report.photos, report.heldout, report.uncaptioned, report.written, report.worse) == (9, 5, 1, True, False)
    assert report.after.perplexity < 0.8 * report.before.perplexity and report.perplexity_ratio.high < 1
    assert list(report.skipped) == [str(photos / "broken.png")]
    before, after = model.container, load(out, engine="numpy").container
    assert after.config == before.config and after.vision == before.vision and after.card["adapted"]["photos"] == 9
    bank = ["keys", "bias", "class_keys", "class_bias", "class_concepts", "words", "prior"]
    still = ("recall.", "confidence.", "model.memory", "model.vision_tower.")
    for name, tensor in before.tensors.items():
        if name.startswith(still) or name.removeprefix("model.concepts.").partition(".")[0] in bank:
            np.testing.assert_array_equal(after.tensors[name], tensor, err_msg=name)
    assert (before.tensors[EMBEDDING] != after.tensors[EMBEDDING]).any()
    assert not list(tmp_path.glob("*.partial"))


def test_a_model_that_got_worse_is_not_written(model: Any, photos: Path, tmp_path: Path) -> None:
    adapt([str(photos)], tmp_path / "good.bitmar", model, QUICK)
    model = load(tmp_path / "good.bitmar", engine="numpy")
    out, wild = tmp_path / "mine.bitmar", Adapting(epochs=2, learning_rate=9.0, rows=4, threads=1)
    report = adapt([str(photos)], out, model, wild)
    assert report.worse and not report.written and not out.exists()
    report = adapt([str(photos)], out, model, wild, force=True)
    assert report.worse and report.written and out.exists()


def test_a_stopped_run_goes_on_to_the_same_model(model: Any, photos: Path, tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int | None) -> None:
        if name == "after":
            raise KeyboardInterrupt

    whole, stopped = tmp_path / "whole.bitmar", tmp_path / "stopped.bitmar"
    adapt([str(photos)], whole, model, QUICK)
    with pytest.raises(KeyboardInterrupt):
        adapt([str(photos)], stopped, model, QUICK, on_progress=stop)
    assert not stopped.exists() and (tmp_path / "stopped.bitmar.partial").is_dir()
    adapt([str(photos)], stopped, model, QUICK)
    assert stopped.read_bytes() == whole.read_bytes()


def test_what_makes_no_sense(model: Any, photos: Path, tmp_path: Path, make_pair: Callable[..., Any]) -> None:
    out = tmp_path / "mine.bitmar"
    with pytest.raises(ConfigError, match="heldout is a share"):
        adapt([str(photos)], out, model, heldout=1.0)
    with pytest.raises(ConfigError, match="another network's features"):
        adapt([str(photos)], out, make_pair().bitmar)
    with pytest.raises(ConfigError, match="epochs must be at least 1"):
        Adapting(epochs=0)
    for i in range(9):
        os.remove(photos / f"{i}.txt")
    with pytest.raises(DataError, match="5 photos with a caption are too few"):
        adapt([str(photos)], out, model)
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        adapt([str(photos)], out, model)
    assert out.read_text() == "mine"


def test_copies_of_a_photo_stay_on_one_side(model: Any, photos: Path, tmp_path: Path) -> None:
    for i in range(14):
        (photos / f"copy-{i}.png").write_bytes((photos / f"{i}.png").read_bytes())
        (photos / f"copy-{i}.txt").write_text("A dog.")
    report = adapt([str(photos)], tmp_path / "mine.bitmar", model, Adapting(epochs=1, rows=8, threads=1), force=True)
    assert report.heldout == len(report.before.captions) == 10
    numbers = {Path(key).stem.removeprefix("copy-") for key in report.before.captions}
    assert len(numbers) == 5
