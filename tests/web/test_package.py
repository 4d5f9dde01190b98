"""bitmar-web in Node says what `bitmar caption` says, by the same steps; what it cannot read ends in one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.Image import Transpose

from bitmar import BitMar, load
from bitmar.core.image import load_photo, to_square
from bitmar.runtime.text import encode
from bitmar.session.session import Session

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
        assert found["text"] == "".join(found["pieces"]).strip() == written.text.strip()
        assert found["tokens"] == list(written.tokens) and found["finishReason"] == written.finish_reason
        assert (
            found["confidence"] == pytest.approx(written.confidence, abs=0.01) and found["general"] == written.general
        )


@pytest.mark.parametrize("options", [{"beams": 1}, {"beams": 3}, {"max_tokens": 4}])
def test_the_same_with_options(node: Node, bundled: BitMar, tmp_path: Path, options: dict[str, Any]) -> None:
    photo = raw(np.asarray(load_photo(PHOTOS[0])), tmp_path / "cat.rgb")
    given = {"maxTokens": options.get("max_tokens", 32), "beams": options.get("beams")}
    (found,) = node(job="captions", model=bundled.path, photos=[photo], options=given)
    written = bundled.generate("", PHOTOS[0], **{"max_tokens": 32, **options})
    assert (found["tokens"], found["finishReason"]) == (list(written.tokens), written.finish_reason)
    assert "".join(found["pieces"]).strip() == found["text"] == written.text.strip()
    assert (len(found["pieces"]) > 1) == (options.get("beams") == 1)  # what is chosen at the end comes at the end


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
    options = [{"beams": beams} for beams in (0, 65, 1.5, "4")] + [{"maxTokens": 0}]
    found = node(job="refusals", model=model, models=models, photos=photos, options=options)
    for said in found["refused"]:
        assert said and "fault" not in said and "\n" not in said
    assert found["after"] is None  # and the model goes on


def test_the_same_answers(node: Node, bundled: BitMar, tmp_path: Path) -> None:
    cat, cup = PHOTOS[0], PHOTOS[1]
    asked = [
        (cat, "is there a cat in the picture"), (cat, "Is there an airplane?"), (cat, "What color is the cat?"),
        (cup, "How many cups are there?"), (cup, "What is on the table?"),
    ]  # fmt: skip
    questions = [
        {"photo": raw(np.asarray(load_photo(path)), tmp_path / f"{i}.rgb"), "question": question}
        for i, (path, question) in enumerate(asked)
    ]
    for found, (path, question) in zip(
        node(job="answers", model=bundled.path, questions=questions), asked, strict=True
    ):
        answer = bundled.ask(path, question)
        assert (found["text"], found["guess"]) == (answer.text, answer.guess)
        assert found["confidence"] == pytest.approx(answer.confidence, abs=0.01)
        assert found["gain"] == pytest.approx(answer.gain, abs=0.02)


def test_the_same_memory_in_one_file(node: Node, bundled: BitMar, tmp_path: Path) -> None:
    """What is remembered here is recalled by Python from the file, and the other way round."""
    whole = [load_photo(path) for path in PHOTOS]
    left, top, right, bottom = 20, 15, 431, 285
    shown = [*whole, whole[0].crop((left, top, right, bottom)), whole[0].transpose(Transpose.ROTATE_270)]
    texts = ["our cat Chelsea", "Zoë's cup \u2615", "the rocket"]
    files = [raw(np.asarray(photo), tmp_path / f"{i}.rgb") for i, photo in enumerate(shown)]
    remembered = [{"text": text, "photo": file} for text, file in zip(texts[:2], files, strict=False)]
    remembered += [{"text": "a text alone", "photo": None}, {"text": "", "photo": files[1]}]
    first, second = tmp_path / "first.mem", tmp_path / "second.mem"
    made = node(job="memory", model=bundled.path, remembered=remembered, shown=files, saved=first)
    assert [change["change"] for change in made["changes"]] == ["new", "new", "new", "unchanged"]
    with bundled.memory(first) as memory:
        _agrees(made, bundled, memory, shown)
        memory.remember(texts[2], whole[2])
        memory.remember("our cat", whole[0])
    again = node(job="memory", model=bundled.path, remembered=[], shown=files, file=first, saved=second)
    assert "our cat" in [episode["text"] for episode in again["episodes"]]
    with bundled.memory(second) as memory:
        _agrees(again, bundled, memory, shown)


def _agrees(made: dict[str, Any], model: BitMar, memory: Session, shown: list[Any]) -> None:
    keys = ("slot", "text", "photo", "time", "cut")
    assert [[one[key] for key in keys] for one in made["episodes"]] == [
        [getattr(one, key) for key in keys] for one in memory.inspect()
    ]
    for found, photo in zip(made["found"], shown, strict=True):
        (recalled,) = memory.recall(image=photo)
        assert found["recalled"]["episode"]["slot"] == recalled.episode.slot
        for key in ("score", "margin", "confidence"):
            assert found["recalled"][key] == pytest.approx(getattr(recalled, key), abs=2e-3)
        written = model.generate("", photo, memory=memory, max_tokens=32)
        assert (found["text"], found["recited"]) == (written.text.strip(), written.recited > 0)
        assert np.allclose(found["weights"], model.read_weights(found["text"], photo, memory=memory), atol=1e-3)


def test_a_broken_memory_file_is_refused(node: Node, bundled: BitMar, tmp_path: Path) -> None:
    path = tmp_path / "home.mem"
    with bundled.memory(path) as memory:
        memory.remember("our cat Chelsea", PHOTOS[0])
    data, files = path.read_bytes(), []
    directory = 4 * 4096
    for i, damaged in enumerate(
        [b"", data[:50], data[:-1], b"\0" * len(data), data[:40] + b"?" + data[41:],
         data[: directory + 20] + b"?" + data[directory + 21 :]]
    ):  # fmt: skip
        files.append(tmp_path / f"{i}.mem")
        files[-1].write_bytes(damaged)
    for said in node(job="broken", model=bundled.path, files=files):
        assert said and "fault" not in said and "\n" not in said
