"""Calibration: a memory of one episode knows what it has seen; the file keeps it, and refuses what is not whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.container import open_container, write_container
from bitmar.core.errors import DataError, FormatError
from bitmar.core.tensors import BACKGROUND_MEAN, BACKGROUND_STRANGERS
from bitmar.runtime.api import BitMar, load
from bitmar.runtime.cache import ImageTokens
from bitmar.session.calibrate import LEAST, background, with_background
from bitmar.session.recall import Background, Index
from bitmar.session.session import image_key

WIDTH, TOKENS = 36, 4


def photos(count: int, seed: int = 0) -> list[ImageTokens]:
    """Pictures with one strong direction in common, as those of one tower have."""
    rng = np.random.default_rng(seed)
    tokens = rng.standard_normal((count, TOKENS, WIDTH)) + 3 * np.eye(WIDTH)[0]
    return [ImageTokens(one.astype(np.float32), None) for one in tokens]


def again(image: ImageTokens, seed: int, noise: float = 0.2) -> ImageTokens:
    """The same picture, seen a little differently."""
    change = noise * np.random.default_rng(seed).standard_normal(image.tokens.shape)
    return ImageTokens(image.tokens + change.astype(np.float32), None)


def test_one_episode_is_enough_to_be_sure() -> None:
    known = background(photos(LEAST))
    familiar, strange = [], []
    for image, other in zip(photos(200, seed=1), photos(200, seed=2), strict=True):
        index = Index(np.array([0]), image_key(image)[None], background=known)
        familiar.append(index.confidence(float(index.scores(image_key(again(image, 3)))[0])) or 0)
        strange.append(index.confidence(float(index.scores(image_key(other))[0])) or 0)
    assert min(familiar) > 0.999
    assert sum(one > 0.99 for one in strange) <= 6  # 2 are expected


def test_more_episodes_make_a_resemblance_worth_less() -> None:
    known = background(photos(LEAST))
    keys = np.stack([image_key(image) for image in photos(64, seed=1)])
    one, many = (Index(np.arange(n), keys[:n], background=known) for n in (1, 64))
    for score in (0.3, 0.5, 0.7):
        assert many.confidence(score) == pytest.approx((one.confidence(score) or 0) ** 64)


def test_chance_is_what_was_measured_and_falls() -> None:
    known = background(photos(LEAST))
    assert [known.chance(float(s)) for s in known.strangers[1:]] == pytest.approx(10 ** (-np.arange(1, 11) / 2))
    chances = [known.chance(score) for score in np.linspace(-1, 1, 50)]
    assert chances == sorted(chances, reverse=True) and chances[0] == 1 and 0 < chances[-1] < 1e-5


def test_too_few_photos_say_how_many() -> None:
    with pytest.raises(DataError, match=str(LEAST)):
        background(photos(LEAST - 1))


@pytest.fixture
def model(make_pair: Callable[..., Any], tmp_path: Path) -> BitMar:
    path = tmp_path / "m.bitmar"
    shutil.copy(make_pair(tower="two stages").bitmar.path, path)
    return load(path)


def test_the_file_keeps_it_in_place_of_an_older_one(model: BitMar, tmp_path: Path) -> None:
    first, second = background(photos(LEAST)), background(photos(LEAST, seed=5))
    assert model.path is not None and Background.of(model.container) is None
    with_background(model.container, first, model.path)
    with_background(open_container(model.path), second, tmp_path / "again.bitmar")
    kept = Background.of(open_container(tmp_path / "again.bitmar"))
    assert kept is not None
    for name in ("mean", "whiten", "strangers"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(second, name))
    changed = load(tmp_path / "again.bitmar")
    assert changed.container.checksum != model.container.checksum
    ids = [1, 40, 50]
    np.testing.assert_array_equal(changed.logits(ids), model.logits(ids))


@pytest.mark.parametrize("fault", ["half of it", "falling", "not finite"])
def test_a_broken_background_is_refused(model: BitMar, tmp_path: Path, fault: str) -> None:
    with_background(model.container, background(photos(LEAST)), tmp_path / "good.bitmar")
    good = open_container(tmp_path / "good.bitmar")
    tensors = dict(good.tensors)
    if fault == "half of it":
        del tensors[BACKGROUND_MEAN]
    elif fault == "falling":
        tensors[BACKGROUND_STRANGERS] = tensors[BACKGROUND_STRANGERS][::-1]
    else:
        tensors[BACKGROUND_MEAN] = np.full_like(tensors[BACKGROUND_MEAN], np.nan)
    about = {"config": good.config, "tokenizer_json": good.tokenizer_json, "vision": good.vision, "card": {}}
    with pytest.raises(FormatError, match=r"recall\."):
        write_container(tmp_path / "bad.bitmar", tensors, **about)
