"""bitmar-web in Node says what `bitmar caption` says, by the same steps; what it cannot read ends in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar import BitMar, load
from bitmar.core.image import load_photo, to_square
from bitmar.runtime.text import encode

pytest.importorskip("bitmar._native", reason="the native engine was not built")
data = pytest.importorskip("skimage", reason="the photos are scikit-image's").__file__
PHOTOS = [Path(data).parent / "data" / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]

Node = Callable[..., Any]


@pytest.fixture(scope="module")
def bundled() -> BitMar:
    return load(engine="portable")


def raw(pixels: np.ndarray, path: Path) -> dict[str, Any]:
    path.write_bytes(pixels.tobytes())
    return {"path": path, "width": pixels.shape[1], "height": pixels.shape[0]}


@pytest.fixture(scope="module")
def made(node: Node, bundled: BitMar, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("photos")
    photos = [raw(np.asarray(load_photo(path)), folder / f"{path.name}.rgb") for path in PHOTOS]
    captions: list[Any] = node(job="captions", model=bundled.path, photos=photos)
    return captions


def test_the_same_caption(made: list[Any], bundled: BitMar) -> None:
    for found, path in zip(made, PHOTOS, strict=True):
        written = bundled.generate("", path, max_tokens=32)
        assert found["text"] == found["pieces"].strip() == written.text.strip()
        assert found["tokens"] == list(written.tokens) and found["finishReason"] == written.finish_reason


def test_by_the_same_steps(made: list[Any], bundled: BitMar) -> None:
    size = bundled.vision["size"]
    for found, path in zip(made, PHOTOS, strict=True):
        square = np.array(found["square"], np.uint8).reshape(size, size, 4)
        assert np.array_equal(square[..., :3], to_square(load_photo(path), size))
        logits = bundled.logits([bundled.config.bos_token_id], path)[0]
        # The same bits but for exp and log, which every C library rounds in its own way.
        assert np.allclose(found["logits"], logits, atol=0.05)


def test_simd_gives_the_bits_of_the_portable_path(node: Node, model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(64, 64), (300, 41), (7, 500), (1, 1)]
    photos = [
        raw(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), tmp_path / f"{i}.rgb") for i, shape in enumerate(shapes)
    ]
    fast, plain = (
        node(job="captions", model=model, photos=photos, kernels=kernels) for kernels in ("simd128", "portable")
    )
    assert fast == plain
    native = load(model, engine="portable")
    for found, photo in zip(fast, photos, strict=True):
        pixels = np.fromfile(photo["path"], np.uint8).reshape(photo["height"], photo["width"], 3)
        assert found["tokens"] == list(native.generate("", pixels, max_tokens=32).tokens)


def test_the_tokenizer_is_the_same(node: Node, bundled: BitMar) -> None:
    texts = [
        "Is there a dog in the picture?", "our cat Chelsea", " two  spaces\n\nand\tlines ", "it's WE'LL don't", "",
        "Zürich 東京 🐕 12345,67", "<eos> is no end", "a\u00a0b\u0085c\ufeffd",
    ]  # fmt: skip
    found = node(job="tokens", model=bundled.path, texts=texts)
    assert [one["ids"] for one in found] == [encode(bundled.tokenizer, text) for text in texts]
    assert [one["text"] for one in found] == texts


def test_what_cannot_be_read_is_said(node: Node, model: Path, tmp_path: Path) -> None:
    data, models = model.read_bytes(), []
    for i, damaged in enumerate(
        [b"", data[:7], data[:2000], data[:-1], b"\xff" * 5000, data.replace(b'"dtype":"F32"', b'"dtype":"F16"', 1)]
    ):
        models.append(tmp_path / f"{i}.bitmar")
        models[-1].write_bytes(damaged)
    models.append(tmp_path / "none.bitmar")
    photos: list[Any] = [{"width": 3, "height": 3}, "photo.jpg", None]
    short = raw(np.zeros((2, 2, 3), np.uint8), tmp_path / "short.rgb")
    photos += [{**short, "width": width} for width in (0, -2, 3, 2.5, 10**9)]
    found = node(job="refusals", model=model, models=models, photos=photos)
    for said in found["refused"]:
        assert said and "fault" not in said and "\n" not in said
    assert found["after"] is None  # and the model goes on
