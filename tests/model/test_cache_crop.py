"""Taking tokens back: the cache is then what it was before them, or says that it cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitmar.model.cache import BitMarCache


def run(model, ids: Tensor, cache: BitMarCache, features: Tensor | None = None, **options) -> Tensor:
    with torch.no_grad():
        return model(ids, vision_features=features, cache=cache, **options).logits


def same(a: BitMarCache, b: BitMarCache) -> None:
    """Everything that the next token depends on."""
    assert a.seen == b.seen
    assert torch.equal(a.tokens, b.tokens)
    for name in ("positions", "valid"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for x, y in zip([*a.keys, *a.values, *a.vision], [*b.keys, *b.values, *b.vision], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    for x, y in zip(a.carry, b.carry, strict=True):
        torch.testing.assert_close(x[:, -1], y[:, -1], rtol=1e-4, atol=1e-4)
    assert (a.memory is None) == (b.memory is None)
    if a.memory is not None:
        for x, y in zip(a.memory, b.memory, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("extra", [1, 3, 5, 11])  # a segment is 5 tokens
def test_what_was_taken_back_was_never_there(tiny_model, inputs, write: bool, extra: int) -> None:
    model, batch = tiny_model(attention_window=40), inputs(length=30)
    ids, features = batch["input_ids"], batch["vision_features"]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    options = {"write_memory": write}

    def begin(*ends: int) -> BitMarCache:
        cache, start = model.model.new_cache(), 0
        for end in ends:
            given = features if start == 0 else None
            run(model, ids[:, start:end], cache, given, attention_mask=mask[:, :end], **options)
            start = end
        return cache

    for ends in ((12, 12 + extra), (12, 13, 12 + extra + 1), (12 + extra,)):
        cropped, plain = begin(*ends), begin(12)
        if write and extra == 5 and len(ends) == 1:
            assert cropped.written[0].ends.shape[1] > 1  # several segments in one call
        cropped.crop(12 if extra % 2 else 12 - ends[-1])
        same(cropped, plain)
        more = ids[:, 20:30]
        found = run(model, more, cropped, attention_mask=torch.cat((mask[:, :12], mask[:, 20:30]), 1), **options)
        expected = run(model, more, plain, attention_mask=torch.cat((mask[:, :12], mask[:, 20:30]), 1), **options)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_past_the_ring_only_what_was_recorded_can_be_taken_back(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs(length=30)  # S + W = 8
    ids = batch["input_ids"]
    cache = model.model.new_cache()
    run(model, ids[:, :20], cache, batch["vision_features"])
    before = [x.clone() for x in cache.keys]
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        cache.crop(-1)
    assert cache.seen == 20 and all(torch.equal(x, y) for x, y in zip(cache.keys, before, strict=True))

    plain = model.model.new_cache()
    run(model, ids[:, :20], plain, batch["vision_features"])
    cache.activate_past_recording()
    for t in range(20, 26):
        run(model, ids[:, t : t + 1], cache)
    assert cache.positions.shape[1] == 8 + 6
    cache.crop(-6)
    same(cache, plain)
    assert cache.positions.shape[1] == 8
    expected = run(model, ids[:, 26:], plain)
    torch.testing.assert_close(run(model, ids[:, 26:], cache), expected, rtol=1e-3, atol=1e-3)


def test_nothing_and_everything(tiny_model, inputs) -> None:
    model, batch = tiny_model(attention_window=40), inputs()
    cache = model.model.new_cache()
    cache.crop(-3)  # nothing is there
    whole = run(model, batch["input_ids"], cache, batch["vision_features"])
    cache.crop(0)
    cache.crop(1000)
    assert cache.get_seq_length() == 20
    cache.crop(-20)
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(run(model, batch["input_ids"], cache), whole)  # the picture stays
    cache.reset()
    assert cache.vision is None and not cache.is_initialized


@pytest.mark.parametrize("window", [6, 40])
@pytest.mark.parametrize("write", [False, True])
def test_assisted_generation_and_prompt_lookup_equal_greedy(tiny_model, inputs, window: int, write: bool) -> None:
    model = tiny_model(attention_window=window)
    torch.manual_seed(3)
    assistant = type(model)(model.config).eval()
    ids = torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6]])
    batch = {"input_ids": ids, "vision_features": inputs(1)["vision_features"], "attention_mask": torch.ones_like(ids)}
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0, "write_memory": write}
    greedy = model.generate(**batch, **options)
    assert greedy.shape[1] > 11 + 12  # past segments and, in one case, past the ring
    for how in ({"assistant_model": assistant}, {"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        assert model.generate(**batch, **options, **how).tolist() == greedy.tolist(), how
