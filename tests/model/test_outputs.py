"""The cache by either of its names, whatever version of transformers is installed."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache


def test_the_cache_is_read_by_either_name(tiny_model, inputs) -> None:
    out = tiny_model()(**inputs(), use_cache=True)
    assert out.cache is not None
    for found in (out.past_key_values, out["past_key_values"], out["cache"], out.get("past_key_values")):
        assert found is out.cache
    assert "past_key_values" in out
    assert "cache" in out
    assert out.get("nothing", 3) == 3


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_is_given_by_either_name(tiny_model, inputs, name: str) -> None:
    model, batch = tiny_model(), inputs()
    ids = batch["input_ids"]
    cache = model.model.new_cache()
    model(ids[:, :7], vision_features=batch["vision_features"], **{name: cache})
    rest = model(ids[:, 7:], **{name: cache})
    assert rest.cache is cache
    assert torch.allclose(rest.logits, model(**batch).logits[:, 7:], atol=1e-4)

    cache = model.model.new_cache()
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    found = model.generate(**batch, **options, return_dict_in_generate=True, **{name: cache})
    assert found.past_key_values is cache
    assert torch.equal(found.sequences, model.generate(**batch, **options))


def test_a_foreign_cache_is_refused(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs()
    with pytest.raises(TypeError, match="new_cache"):
        model(**batch, past_key_values=DynamicCache())
    with pytest.raises(TypeError, match="new_cache"):
        model.generate(**batch, past_key_values=DynamicCache(), max_new_tokens=2)
    with pytest.raises(ValueError, match="two names"):
        model(**batch, cache=model.model.new_cache(), past_key_values=model.model.new_cache())
