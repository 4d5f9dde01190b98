"""Generation through transformers, against a slow loop that runs the whole sequence again for every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bitmar.model.modeling_bitmar import BitMarForCausalLM

Make = Callable[..., BitMarForCausalLM]
NEW = 14  # with the prompt longer than S + W = 8 and than two segments


@torch.no_grad()
def greedy(model: BitMarForCausalLM, ids: Tensor, **options: Any) -> list[int]:
    """The oracle: no cache, no padding, one sequence."""
    ids = ids.unsqueeze(0)
    for _ in range(NEW):
        ids = torch.cat((ids, model(ids, **options).logits[:, -1:].argmax(-1)), dim=1)
        if ids[0, -1] == model.config.eos_token_id:
            break
    return ids[0].tolist()


@pytest.mark.parametrize("integration", ["per_layer", "concat", "off"])
def test_greedy_with_left_padding(tiny_model: Make, inputs: Any, integration: str) -> None:
    model, batch, lengths = tiny_model(memory_integration=integration), inputs(batch=3, length=9), (9, 2, 5)
    mask = torch.stack([torch.arange(9) >= 9 - n for n in lengths]).long()
    ids = batch["input_ids"] * mask
    out = model.generate(
        ids,
        attention_mask=mask,
        vision_features=batch["vision_features"],
        max_new_tokens=NEW,
        do_sample=False,
    )
    for row, n in enumerate(lengths):
        expected = greedy(model, ids[row, -n:], vision_features=batch["vision_features"][row : row + 1])
        assert out[row, 9 - n :][: len(expected)].tolist() == expected


def test_beams_with_and_without_cache(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(), inputs(batch=2, length=5)
    mask = torch.ones(2, 5, dtype=torch.long)
    mask[1, :3] = 0
    options = {"attention_mask": mask, "max_new_tokens": NEW, "num_beams": 3, "do_sample": False}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    assert not torch.equal(cached[:, :19], model.generate(**batch, **{**options, "num_beams": 1})[:, :19])


def test_sampling_follows_the_seed(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(), inputs(batch=2, length=5)

    def sample(seed: int, **options: Any) -> Tensor:
        torch.manual_seed(seed)
        return model.generate(**batch, max_new_tokens=NEW, do_sample=True, top_p=0.9, eos_token_id=None, **options)

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))
    assert torch.equal(sample(1), sample(1, use_cache=False))
    assert sample(1, num_return_sequences=3).shape == (6, 5 + NEW)


def test_a_caption_needs_only_a_picture(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(), inputs(batch=2, length=1)
    batch["input_ids"] = torch.full((2, 1), model.config.bos_token_id)
    options = {
        "max_new_tokens": NEW,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    found = model.generate(vision_features=batch["vision_features"], **options)
    assert torch.equal(found.sequences, model.generate(**batch, **options).sequences)
    assert not torch.allclose(found.logits[0][0], found.logits[0][1], atol=1e-2)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_given_memory_lasts_through_generation(tiny_model: Make, inputs: Any, rows: int, beams: int) -> None:
    model, batch = tiny_model(), inputs(batch=2, length=5)
    state = model(**inputs(batch=rows, seed=9), write_memory=True).memory
    options = {"max_new_tokens": NEW, "num_beams": beams, "do_sample": False}
    with_memory = model.generate(**batch, memory=state, **options)
    assert torch.equal(with_memory, model.generate(**batch, memory=state, **options, use_cache=False))
    assert not torch.equal(with_memory, model.generate(**batch, **options))


def test_a_conversation_goes_on_from_its_cache(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(), inputs(batch=1, length=5)
    first = model.generate(**batch, max_new_tokens=4, eos_token_id=None, do_sample=False, return_dict_in_generate=True)
    more = torch.cat((first.sequences, torch.tensor([[7, 8]])), dim=1)
    again = model.generate(more, past_key_values=first.past_key_values, max_new_tokens=4, do_sample=False)
    expected = model.generate(more, vision_features=batch["vision_features"], max_new_tokens=4, do_sample=False)
    assert torch.equal(again, expected)
