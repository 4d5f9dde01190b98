"""The checkpoint's image processor is the runtime's preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bitmar.core.image import load_photo, preprocess
from bitmar.model.image_processing_bitmar import BitMarImageProcessor

MEAN, STD, SIZE = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), 20


def equal(processor: BitMarImageProcessor, given: Any, expected: Image.Image) -> None:
    np.testing.assert_array_equal(processor(given)["pixel_values"], processor(expected)["pixel_values"])


def test_arrays_and_tensors_in_either_order(processor: BitMarImageProcessor) -> None:
    levels = np.random.default_rng(3).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    expected, first = Image.fromarray(levels), levels.transpose(2, 0, 1)
    for given in (levels, first, levels.astype(np.int64), levels / 255.0, (first / 255.0).astype(np.float32)):
        equal(processor, given, expected)
        equal(processor, torch.from_numpy(np.ascontiguousarray(given)), expected)
    grey = levels[..., 0]
    for given in (grey, grey[..., None], grey[None], torch.from_numpy(grey.copy())):
        equal(processor, given, Image.fromarray(grey))
    both = np.stack((levels, levels[::-1]))
    assert processor(both)["pixel_values"].shape == (2, 3, SIZE, SIZE)
    equal(processor, torch.from_numpy(both.transpose(0, 3, 1, 2).copy())[0], expected)
    three_by_three = levels[:3, :3]  # either order is possible: an array is (H, W, C), a tensor (C, H, W)
    equal(processor, three_by_three, Image.fromarray(np.ascontiguousarray(three_by_three)))
    equal(processor, torch.from_numpy(three_by_three.transpose(2, 0, 1).copy()), Image.fromarray(three_by_three.copy()))


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4, 3), 200.0),
        np.full((4, 4, 3), -1.0),
        np.full((4, 4, 3), np.nan),
        np.full((4, 4, 3), 300),
        np.zeros((7, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(7, np.uint8),
        np.zeros((4, 4, 3), complex),
    ],
)
def test_what_is_no_photo_is_refused(processor: BitMarImageProcessor, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="photo"):
        processor(array)


@pytest.fixture
def processor() -> BitMarImageProcessor:
    return BitMarImageProcessor(size=SIZE, image_mean=MEAN, image_std=STD)


def photo(mode: str) -> Image.Image:
    rng = np.random.default_rng(5)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (31, 47), dtype=np.uint16))
    if mode == "F":
        return Image.fromarray(rng.normal(size=(31, 47)).astype(np.float32))
    if mode == "I":
        return Image.fromarray(rng.integers(0, 5000, (31, 47), dtype=np.int32))
    if mode == "RGBA":
        return Image.fromarray(rng.integers(0, 256, (31, 47, 4), dtype=np.uint8))
    return Image.fromarray(rng.integers(0, 256, (31, 47, 3), dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "LA", "RGBA", "I;16", "I", "F"])
def test_equals_the_runtime(processor: BitMarImageProcessor, mode: str) -> None:
    found = processor(photo(mode))["pixel_values"]
    expected = preprocess(load_photo(photo(mode)), size=SIZE, mean=MEAN, std=STD)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], expected)


def test_a_file_is_turned_upright(processor: BitMarImageProcessor, tmp_path: Path) -> None:
    path, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    photo("RGB").save(path, exif=exif)
    expected = preprocess(load_photo(path), size=SIZE, mean=MEAN, std=STD)
    for source in (path, str(path)):
        np.testing.assert_array_equal(processor(source)["pixel_values"][0], expected)


def test_batches(processor: BitMarImageProcessor) -> None:
    one, two = photo("RGB"), np.asarray(photo("L"))
    batch = processor([one, two], return_tensors="pt")["pixel_values"]
    assert batch.shape == (2, 3, SIZE, SIZE) and batch.dtype == torch.float32
    nested = processor([[one], [two]], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(batch.numpy(), nested)


def test_only_photos(processor: BitMarImageProcessor) -> None:
    with pytest.raises(TypeError, match="not dict"):
        processor({"photo": 1})
    with pytest.raises(ValueError, match="squash"):
        BitMarImageProcessor(resize="crop")


def test_save_and_load(processor: BitMarImageProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = BitMarImageProcessor.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded(photo("RGB"))["pixel_values"], processor(photo("RGB"))["pixel_values"])
