"""The space of the contrastive loss, as the runtime gives it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bitmar.core.errors import ConfigError, ImageError, TokenizerError

from .._pairs import Pair

TEXTS = ["the dog runs", "the man", "the dog runs over the green grass and the man runs over the dog", "", "a man"]


@pytest.mark.parametrize("changes", [{}, {"memory_integration": "off"}, {"quantization": "none"}])
def test_it_is_what_torch_pools(make_pair: Callable[..., Pair], changes: dict[str, str]) -> None:
    import torch

    pair = make_pair(**changes)
    model, image = pair.bitmar, pair.image()
    for text in TEXTS:
        ids = [1, *model.tokenizer.encode(text, add_special_tokens=False).ids, 2]
        with torch.no_grad():
            given = {name: torch.from_numpy(x) for name, x in image.items()}
            out = pair.torch_model.model(torch.tensor([ids]), **given)
        for pooled, found in (
            (out.text_pooled[0].numpy(), model.embed(text)),
            (out.vision_pooled[0].numpy(), model.embed(image=model.encode_image(features=image["vision_features"][0]))),
        ):
            assert found.dtype == np.float32 and np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
            assert found @ pooled / np.linalg.norm(pooled) > 0.999


def test_both_engines_agree(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    features = pair.image()["vision_features"][0]
    both = [model.embed(image=model.encode_image(features=features)) for model in (pair.bitmar, pair.native())]
    assert both[0] @ both[1] > 0.999
    assert np.array_equal(pair.bitmar.embed_texts(TEXTS), pair.native().embed_texts(TEXTS))


def test_a_text_does_not_depend_on_its_neighbours(make_pair: Callable[..., Pair]) -> None:
    model = make_pair().bitmar
    together = model.embed_texts(TEXTS * 3)
    assert together.shape == (15, 36)
    for text, found in zip(TEXTS * 3, together, strict=True):
        assert model.embed(text) @ found > 0.9999  # one row or several: sums may run in another order
    assert model.embed_texts([]).shape == (0, 36)


def test_a_long_text_in_pieces_is_the_same(make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_pair().bitmar
    whole = model.embed(TEXTS[2] * 4)
    monkeypatch.setattr("bitmar.runtime.embedding._CHUNK", 16)
    assert model.embed(TEXTS[2] * 4) @ whole > 0.999


def test_wrong_use_is_a_clear_error(make_pair: Callable[..., Pair]) -> None:
    model = make_pair().bitmar
    for given in ({}, {"text": "a dog", "image": b"x"}):
        with pytest.raises(ConfigError, match="either a text or image"):
            model.embed(**given)
    with pytest.raises(ImageError):
        model.embed(image=b"no photo")
    with pytest.raises(TokenizerError):
        model.embed("\ud800")
