"""A model, its images and its options in other processes, and copied."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.api import BitMar, load
from bitmar.core.errors import FormatError
from bitmar.runtime.cache import ImageTokens
from bitmar.runtime.options import GenerationOptions


@pytest.fixture(params=["", "numpy"], ids=["native", "numpy"])
def model(request: pytest.FixtureRequest, make_pair: Callable[..., Any]) -> BitMar:
    return load(make_pair(tower="two stages").folder / "model.bitmar", engine=request.param or None)


def image_of(model: BitMar) -> ImageTokens:
    side = model.config.vision_grid**2
    features = np.random.default_rng(0).standard_normal((side, model.config.vision_dim)).astype(np.float32)
    return model.encode_image(features=features)


def write(model: BitMar, image: ImageTokens) -> str:
    return model.generate("the", image, max_tokens=8).text


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_pool_of_processes(model: BitMar, start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    image = image_of(model)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(start)) as pool:
        # A method of the package's: a child that was spawned need not find this file.
        assert pool.submit(model.complete, "the", image, max_tokens=8).result() == write(model, image)


def test_pickles_and_copies_write_the_same(model: BitMar) -> None:
    image = image_of(model)
    for again in (pickle.loads(pickle.dumps((model, image))), copy.deepcopy((model, image))):
        assert again[0].engine.name == model.engine.name
        assert write(*again) == write(model, image)
        np.testing.assert_array_equal(again[1].tokens, image.tokens)
    assert len(pickle.dumps(model)) < 1000  # a reference, not the weights
    image_copy = copy.deepcopy(image)
    image_copy.tokens[:] = 0
    assert image.tokens.any()


def test_an_image_keeps_all_but_what_its_engine_prepared() -> None:
    for field in dataclasses.fields(ImageTokens):
        if field.name != "prepared":
            value = tuple(np.ones((3, 2))) if field.name == "evidence" else np.ones((1, 2))
            arrays = {"tokens": np.zeros((1, 2), np.float32), "prepared": object()} | {field.name: value}
            again = pickle.loads(pickle.dumps(ImageTokens(**arrays)))
            np.testing.assert_array_equal(getattr(again, field.name), arrays[field.name])
            assert again.prepared is None


def test_a_model_that_was_replaced_is_not_taken_for_the_pickled_one(
    make_pair: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "m.bitmar"
    shutil.copy(make_pair().folder / "model.bitmar", path)
    pickled = pickle.dumps(load(path, engine="numpy"))
    shutil.copy(make_pair(memory_integration="concat").folder / "model.bitmar", path)
    with pytest.raises(FormatError, match=r"m\.bitmar: another model"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(FormatError, match="No such file"):
        pickle.loads(pickled)


def test_options(model: BitMar) -> None:
    options = GenerationOptions(top_k=3, seed=1)
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options
