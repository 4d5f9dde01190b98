"""Calibration: a memory of one episode knows what it has seen; the file keeps it, and refuses what is not whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar.api import BitMar, load
from bitmar.core.container import open_container, write_container
from bitmar.core.errors import DataError, FormatError, ImageError
from bitmar.core.tensors import (
    BACKGROUND_MEAN,
    BACKGROUND_PROJECT,
    BACKGROUND_STRANGERS,
    BACKGROUND_WHITEN,
    STRANGERS,
    scale_name,
)
from bitmar.runtime.cache import ImageTokens
from bitmar.session.calibrate import LEAST, background, views, with_background
from bitmar.session.recall import TURNS, Background, Index, Recognizer

WIDTH = 64
COMMON = np.random.default_rng(99).standard_normal((3, WIDTH))  # what changes from view to view, in all photos


def photos(count: int, seed: int = 0) -> np.ndarray:
    """Pooled features (count, WIDTH) that are positive and have much in common, as those of a tower are."""
    return np.random.default_rng(seed).gamma(0.7, size=(count, WIDTH)).astype(np.float32) + 0.5


def seen(pooled: np.ndarray, count: int, seed: int, noise: float = 0.08) -> np.ndarray:
    """Views of one photo, (count, WIDTH): the photo first."""
    rng = np.random.default_rng(seed)
    change = 0.3 * rng.standard_normal((count, 3)) @ COMMON + noise * rng.standard_normal((count, WIDTH))
    change[0] = 0
    return np.maximum(pooled + change, 0).astype(np.float32)


def calibrated(count: int = LEAST, seed: int = 0, each: int = 8) -> Background:
    return background(seen(one, each, i) for i, one in enumerate(photos(count, seed)))


def image(pooled: np.ndarray) -> ImageTokens:
    return ImageTokens(np.zeros((4, 36), np.float32), None, pooled)


def test_one_episode_is_enough_to_be_sure() -> None:
    recognizer = Recognizer(known := calibrated(), 36)
    familiar, strange = [], []
    for i, (one, other) in enumerate(zip(photos(200, seed=1), photos(200, seed=2), strict=True)):
        index = Index(np.array([0]), recognizer.keys([image(one)] * TURNS)[None], background=known)
        for found, shown in ((familiar, seen(one, 2, i)[1]), (strange, other)):
            found.append(index.confidence(float(index.scores(recognizer.key(image(shown)))[0])) or 0)
    assert np.mean([one > 0.99 for one in familiar]) > 0.97
    assert sum(one > 0.99 for one in strange) <= 6  # 2 are expected


def test_more_episodes_make_a_resemblance_worth_less() -> None:
    recognizer = Recognizer(known := calibrated(), 36)
    keys = np.stack([recognizer.keys([image(one)]) for one in photos(64, seed=1)])
    one, many = (Index(np.arange(n), keys[:n], background=known) for n in (1, 64))
    for score in (0.3, 0.5, 0.7):
        assert many.confidence(score) == pytest.approx((one.confidence(score) or 0) ** 64)


def test_of_the_turns_the_nearest_counts() -> None:
    recognizer = Recognizer(known := calibrated(), 36)
    turns = [image(one) for one in photos(TURNS, seed=4)]
    index = Index(np.array([0]), recognizer.keys(turns)[None], background=known)
    for turn in turns:
        assert index.scores(recognizer.key(turn))[0] == pytest.approx(1, abs=1e-3)
    upright = Index(np.array([0]), recognizer.keys(turns[:1])[None], background=known)
    assert upright.scores(recognizer.key(turns[1]))[0] < 0.9
    assert recognizer.keys(turns).shape == recognizer.keys(turns[:1]).shape == (recognizer.width,)


def test_tokens_that_do_not_say_what_the_tower_saw() -> None:
    with pytest.raises(ImageError, match="encode_image"):
        Recognizer(calibrated(), 36).key(ImageTokens(np.zeros((4, 36), np.float32), None))


def test_chance_is_what_was_measured_and_falls() -> None:
    known = calibrated()
    assert (np.diff(known.strangers) >= 0).all()
    chances = [known.chance(score) for score in np.linspace(-1, 1, 50)]
    assert chances == sorted(chances, reverse=True) and chances[0] == 1 and 0 < chances[-1] < 1e-5


@pytest.mark.parametrize("each", [1, 2])
def test_few_views_do(each: int) -> None:
    """A model without a tower has only the views whose features were extracted."""
    known = calibrated(each=each)
    assert np.isfinite(known.whiten).all() and np.isfinite(known.strangers).all()


def test_too_few_photos_say_how_many() -> None:
    with pytest.raises(DataError, match=str(LEAST)):
        calibrated(LEAST - 1)


@pytest.mark.parametrize("size", [(60, 50), (1, 1), (3, 200)])
def test_views_of_any_photo(size: tuple[int, int]) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    found = list(views(photo, np.random.default_rng(1)))
    assert found[0] is photo and len(found) == 2 * TURNS and all(view.mode == "RGB" for view in found)
    assert [view.size for view in found[1:TURNS]] == [size[::-1], size, size[::-1]]


@pytest.fixture
def model(make_pair: Callable[..., Any], tmp_path: Path) -> BitMar:
    path = tmp_path / "m.bitmar"
    shutil.copy(make_pair(tower="two stages").bitmar.path, path)
    return load(path)


def fitting(model: BitMar, seed: int = 0) -> Background:
    """A background of this model's width."""
    pooled = np.random.default_rng(seed).gamma(1, size=(LEAST, 2, model.config.vision_dim)).astype(np.float32)
    return background(pooled)


def test_the_file_keeps_it_in_place_of_an_older_one(model: BitMar, tmp_path: Path) -> None:
    first, second = fitting(model), fitting(model, 5)
    assert model.path is not None and Background.of(model.container) is None
    with_background(model.container, first, model.path)
    with_background(open_container(model.path), second, tmp_path / "again.bitmar")
    kept = Background.of(open_container(tmp_path / "again.bitmar"))
    assert kept is not None and kept.features
    np.testing.assert_array_equal(kept.strangers, second.strangers)
    np.testing.assert_allclose(kept.whiten, second.whiten, rtol=1e-6, atol=1e-7)
    changed = load(tmp_path / "again.bitmar")
    assert changed.container.checksum != model.container.checksum
    ids = [1, 40, 50]
    np.testing.assert_array_equal(changed.logits(ids), model.logits(ids))


def parts(model: BitMar) -> dict[str, Any]:
    good = model.container
    return {"config": good.config, "tokenizer_json": good.tokenizer_json, "vision": good.vision, "card": {}}


def test_a_file_of_the_earlier_form_recalls_by_its_tokens(model: BitMar, tmp_path: Path) -> None:
    width = model.config.hidden_size
    earlier = {
        BACKGROUND_MEAN: np.zeros(width, np.float32),
        BACKGROUND_WHITEN: np.eye(width, dtype=np.float32),
        BACKGROUND_STRANGERS: np.linspace(0, 0.9, STRANGERS, dtype=np.float32),
    }
    write_container(tmp_path / "old.bitmar", {**model.container.tensors, **earlier}, **parts(model))
    old = load(tmp_path / "old.bitmar")
    memory = old.memory()
    assert memory.file.shape.image == width
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    memory.remember("Rex", photo)
    (found,) = memory.recall(image=photo)
    assert found.episode.text == "Rex" and found.score > 0.999 and (found.confidence or 0) > 0.999


@pytest.mark.parametrize("fault", ["half of it", "falling", "not finite", "both forms"])
def test_a_broken_background_is_refused(model: BitMar, tmp_path: Path, fault: str) -> None:
    with_background(model.container, fitting(model), tmp_path / "good.bitmar")
    tensors = dict(open_container(tmp_path / "good.bitmar").tensors)
    if fault == "half of it":
        del tensors[BACKGROUND_MEAN]
    elif fault == "falling":
        tensors[BACKGROUND_STRANGERS] = tensors[BACKGROUND_STRANGERS][::-1]
    elif fault == "both forms":
        tensors[BACKGROUND_WHITEN] = np.eye(model.config.hidden_size, dtype=np.float32)
    else:
        scale = scale_name(BACKGROUND_PROJECT)
        tensors[scale] = np.full_like(tensors[scale], np.nan)
    with pytest.raises(FormatError, match=r"recall\."):
        write_container(tmp_path / "bad.bitmar", tensors, **parts(model))
