from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar.api import BitMar, load
from bitmar.core.errors import ConfigError, ImageError, TokenizerError
from bitmar.plots.trace import Tracer
from bitmar.runtime.memory import MemoryState
from bitmar.runtime.text import encode


@pytest.fixture
def seeing(make_pair: Callable[..., Any]) -> BitMar:
    """A model with a tower of its own."""
    return make_pair(tower="two stages").bitmar


@pytest.fixture
def blind(make_pair: Callable[..., Any]) -> BitMar:
    """A model that was trained on another network's features."""
    return make_pair().bitmar


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_a_photo_and_its_prepared_tokens_give_one_caption(seeing: BitMar, photo: Image.Image) -> None:
    prepared = seeing.encode_image(photo)
    caption = seeing.caption(prepared)
    assert caption == seeing.caption(photo) == seeing.caption(np.asarray(photo)) == caption.strip()
    assert seeing.generate("", prepared, max_tokens=32).text.strip() == caption


def test_a_photo_gives_the_logits_of_torch(make_pair: Callable[..., Any], photo: Image.Image) -> None:
    """The whole path, preprocessing included, against the checkpoint's own image processor."""
    import torch

    from bitmar.model.image_processing_bitmar import BitMarImageProcessor

    pair = make_pair(tower="two stages")
    processor = BitMarImageProcessor.from_pretrained(pair.folder)
    pixels = processor(photo, return_tensors="pt")["pixel_values"]
    ids = [1, 100, 101, 102]
    with torch.no_grad():
        theirs = pair.torch_model(torch.tensor([ids]), pixel_values=pixels).logits[0].numpy()
    error = np.abs(pair.bitmar.logits(ids, photo) - theirs)
    # One int8 code of the tower that falls to the other side of a rounding edge moves all that follows a little.
    assert np.median(error) < 0.05 and error.max() < 0.25


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda slots, usage: [slots, usage], "not list"),
        (lambda slots, usage: "home.mem", "not str"),
        (lambda slots, usage: MemoryState(slots[:, 1:], usage), "another shape"),
        (lambda slots, usage: MemoryState(slots, usage[:, 1:]), "another shape"),
        (lambda slots, usage: MemoryState(np.full_like(slots, np.nan), usage), "not finite"),
        (lambda slots, usage: MemoryState(slots, -usage - 1), "not between 0 and 1"),
        (lambda slots, usage: MemoryState(slots, usage * np.nan), "not between 0 and 1"),
        (lambda slots, usage: MemoryState(np.full(slots.shape, "a"), usage), "arrays of numbers"),
    ],
)
def test_what_is_no_memory_of_this_model_is_refused(
    blind: BitMar, spoil: Callable[[Any, Any], Any], message: str
) -> None:
    state = blind.remember("the dog")
    assert len(blind.score("the dog", memory=state))
    with pytest.raises(ConfigError, match=message):
        blind.score("the dog", memory=spoil(*state))


def test_what_is_no_text_is_refused(seeing: BitMar, photo: Image.Image) -> None:
    memory = seeing.memory()
    for what in (5, b"the dog", ["the dog"]):
        for call in (seeing.complete, seeing.embed, memory.remember, lambda text: memory.recall(text=text)):
            with pytest.raises(TokenizerError, match="no text that can be encoded"):
                call(what)  # type: ignore[arg-type]
        with pytest.raises(TokenizerError, match="no text that can be encoded"):
            seeing.ask(photo, what)  # type: ignore[arg-type]


def test_the_image_changes_what_is_written(blind: BitMar) -> None:
    features = np.random.default_rng(0).standard_normal((2, 9, 14))
    scores = [blind.score("the dog", blind.encode_image(features=f)) for f in features]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_a_photo_without_a_tower_says_what_to_do(blind: BitMar, photo: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"no vision tower.*features=\.\.\..*\(9, 14\)"):
        blind.caption(photo)


@pytest.mark.parametrize("features", [np.zeros((8, 14)), np.zeros((1, 9, 14)), np.full((9, 14), np.nan)])
def test_wrong_features_are_refused(blind: BitMar, features: np.ndarray) -> None:
    with pytest.raises(ImageError, match="patch features"):
        blind.encode_image(features=features)


def test_a_photo_or_features_not_both(blind: BitMar, photo: Image.Image) -> None:
    for arguments in ({}, {"photo": photo, "features": np.zeros((9, 14))}):
        with pytest.raises(ImageError, match="either a photo or features"):
            blind.encode_image(**arguments)


def test_tokens_of_another_model_are_refused(blind: BitMar, make_pair: Callable[..., Any]) -> None:
    other = make_pair(vision_pool=1, activation="gelu").bitmar
    with pytest.raises(ImageError, match="another model"):
        blind.caption(other.encode_image(features=np.zeros((9, 14))))


def test_a_caption_needs_a_picture(blind: BitMar) -> None:
    with pytest.raises(ImageError, match="needs a picture"):
        blind.caption(None)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="array of numbers"):
        blind.encode_image(features=[[1.0], [1.0, 2.0]])


def test_a_broken_photo_is_named(seeing: BitMar, tmp_path: Any) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        seeing.caption(broken)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "seed": 3}, {"repetition_penalty": 1.2}])
def test_a_stream_gives_the_generated_text(blind: BitMar, options: dict[str, Any]) -> None:
    pieces = blind.stream("the dog", max_tokens=25, **options)
    assert isinstance(pieces, Iterator)
    assert "".join(pieces) == blind.complete("the dog", max_tokens=25, **options)


def test_a_stream_refuses_wrong_arguments_at_the_call(blind: BitMar) -> None:
    with pytest.raises(ConfigError, match="beams=1"):
        blind.stream("the", beams=2)
    with pytest.raises(ConfigError, match="did you mean 'max_tokens'"):
        blind.stream("the", max_token=2)


def test_a_generation_says_how_it_ended(blind: BitMar) -> None:
    result = blind.generate("the", max_tokens=4)
    assert result.finish_reason == "length" and len(result.tokens) == 4
    assert result.text == blind.tokenizer.decode(list(result.tokens))
    assert min(result.timings.image, result.timings.prompt, result.timings.decode) >= 0
    config = blind.config
    blind.config = type(config).from_dict({**config.to_dict(), "eos_token_id": result.tokens[2]})
    try:
        ended = blind.generate("the", max_tokens=4)
    finally:
        blind.config = config
    assert ended.finish_reason == "stop"
    assert ended.tokens == result.tokens[: result.tokens.index(result.tokens[2])]


def test_scores_are_the_log_probabilities_of_the_logits(blind: BitMar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.runtime.engine._CHUNK", 4)
    text = "the dog runs over the green grass"
    ids = [blind.config.bos_token_id, *blind.tokenizer.encode(text, add_special_tokens=False).ids]
    logits = blind.logits(ids)
    assert logits.shape == (len(ids), blind.config.vocab_size) and logits.dtype == np.float32
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    expected = (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(blind.score(text), expected, atol=1e-4)
    assert blind.score("").shape == (0,)


def test_text_cannot_write_special_tokens(blind: BitMar) -> None:
    assert blind.config.eos_token_id not in blind.tokenizer.encode("<eos>", add_special_tokens=False).ids


def test_too_many_beams_for_the_vocabulary_and_bad_text_are_refused(blind: BitMar) -> None:
    with pytest.raises(ConfigError, match="beams"):
        blind.generate("the", beams=65)
    with pytest.raises(TokenizerError):
        blind.complete("\ud800")
    with pytest.raises(TokenizerError, match="vocabulary"):
        blind.logits([0, 280])


def test_loading_gives_the_same_model(make_pair: Callable[..., Any]) -> None:
    pair = make_pair()
    again = load(str(pair.folder), engine="numpy")
    assert again.path == pair.folder / "model.bitmar" and "model.bitmar" in repr(again)
    np.testing.assert_array_equal(again.logits([1, 5, 9]), pair.bitmar.logits([1, 5, 9]))


@pytest.mark.parametrize("max_tokens", [1, 25])
def test_a_stream_returns_what_generate_returns(blind: BitMar, max_tokens: int) -> None:
    def drain() -> Iterator[str]:
        returned.append((yield from blind.stream("the dog", max_tokens=max_tokens)))

    returned: list[Any] = []
    text = "".join(drain())
    whole = blind.generate("the dog", max_tokens=max_tokens)
    (result,) = returned
    assert result.text == whole.text == text
    assert result.tokens == whole.tokens and result.finish_reason == whole.finish_reason


def test_read_weights_are_what_the_slow_engine_reads_with(seeing: BitMar, photo: Image.Image) -> None:
    tracer = Tracer(seeing.container)
    image = seeing.encode_image(photo)
    ids = np.array([seeing.config.bos_token_id, *encode(seeing.tokenizer, "the")])
    with seeing.memory() as memory:
        memory.remember("our dog Rex", photo)
        for state in (None, memory.state_for(seeing)):
            weights = seeing.read_weights("the", image, memory=state)
            assert weights.shape == (seeing.config.memory_slots,) and weights.sum() == pytest.approx(1, abs=1e-5)
            reads = tracer.run(ids, image, state).reads
            assert reads is not None
            np.testing.assert_allclose(weights, reads[-1], atol=1e-4)
        np.testing.assert_array_equal(weights, seeing.read_weights("the", image, memory=memory))
    assert not np.allclose(weights, seeing.read_weights("the", image))


def test_read_weights_need_a_memory(make_pair: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="has no memory"):
        make_pair(memory_integration="off").bitmar.read_weights("the dog")
