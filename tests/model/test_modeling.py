"""The assembled model: outputs, losses, gradients, switches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bitmar.model.arguments import Rows
from bitmar.model.modeling_bitmar import BitMarForCausalLM, BitMarModel

VARIANTS = {
    "paper": {"memory_dim": 32},
    "literal": {"write_rule": "literal", "activation": "gelu"},
    "learned": {"query_pooling": "learned", "vision_pool": 1},
    "add": {"memory_integration": "add"},
    "concat": {"memory_integration": "concat"},
    "off": {"memory_integration": "off"},
    "float": {"quantization": "none"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_learns(tiny_model: Callable[..., BitMarForCausalLM], inputs: Any, name: str) -> None:
    """A row of several segments in chains of two, so that what was written is read, with a picture."""
    model = tiny_model(**VARIANTS[name]).train()
    batch = inputs(batch=4, length=13)
    out = model(**batch, labels=batch["input_ids"], rows=Rows(episodes=2))
    out.loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_loss_is_the_weighted_sum(tiny_model, inputs) -> None:
    model, batch = tiny_model().train(), inputs(batch=4, length=13)
    out = model(**batch, labels=batch["input_ids"])
    assert out.logits is None  # T x V of them would not fit
    assert min(out.lm_loss, out.contrastive_loss, out.memory_loss) > 0
    torch.testing.assert_close(out.loss, out.lm_loss + 1.5 * out.contrastive_loss + 0.1 * out.memory_loss)


def test_evaluation_gives_logits_and_their_loss(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs(length=9)
    out = model(**batch, labels=batch["input_ids"])
    assert out.logits.shape == (2, 9, 61) and out.logits.dtype == torch.float32
    expected = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
    torch.testing.assert_close(out.lm_loss, expected, rtol=1e-4, atol=1e-4)
    assert out.memory_loss is None  # frozen


def test_a_fresh_model_is_near_the_uniform_distribution(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs(batch=8, length=30)
    assert model(**batch, labels=batch["input_ids"]).lm_loss.item() < math.log(61) + 0.6


def test_a_text_without_picture(tiny_model, inputs) -> None:
    model, batch = tiny_model().train(), inputs(batch=4)
    out = model(batch["input_ids"], labels=batch["input_ids"])
    assert out.contrastive_loss is None and torch.isfinite(out.loss)


def test_mixed_batch(tiny_model, inputs, assert_agree) -> None:
    """A sequence whose image_mask is False reads as if there were no picture."""
    model, batch = tiny_model(), inputs(batch=3)
    mixed = model(**batch, image_mask=torch.tensor([True, False, True])).logits
    assert_agree(mixed[1], model(batch["input_ids"][1:2]).logits[0])
    assert_agree(mixed[0], model(**batch).logits[0])
    assert not torch.allclose(mixed[1], model(**batch).logits[1], atol=1e-2)


def test_logits_to_keep(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs()
    full = model(**batch).logits
    torch.testing.assert_close(model(**batch, logits_to_keep=3).logits, full[:, -3:])
    torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 5])).logits, full[:, [0, 5]])


def test_embeddings_instead_of_ids(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs()
    embedded = model.get_input_embeddings()(batch["input_ids"])
    out = model(inputs_embeds=embedded, vision_features=batch["vision_features"])
    assert torch.equal(out.logits, model(**batch).logits)


def test_hidden_states(tiny_model, inputs) -> None:
    states = tiny_model().model(**inputs(), output_hidden_states=True).hidden_states
    assert [x.shape for x in states] == [(2, 20, 32)] * (1 + 2 + 2)


def test_the_built_in_tower_reads_pixels(tiny_model, inputs, tower_config) -> None:
    model, batch, pixels = tiny_model(vision_tower=tower_config), inputs(), torch.randn(2, 3, 48, 48)
    ids = batch["input_ids"]
    features = model.model.vision_tower(pixels)
    assert torch.equal(model(ids, pixel_values=pixels).logits, model(ids, vision_features=features).logits)


def test_pixels_without_a_tower(tiny_model, inputs) -> None:
    with pytest.raises(ValueError, match="vision_features"):
        tiny_model()(inputs()["input_ids"], pixel_values=torch.zeros(2, 3, 48, 48))


def test_gradient_checkpointing_changes_nothing(tiny_model, inputs) -> None:
    batch, results = inputs(batch=4, length=13), []
    for checkpointing in (False, True):
        model = tiny_model(dropout=0.2).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.model.decoder.gradient_checkpointing and model.is_gradient_checkpointing
        torch.manual_seed(7)  # the recomputation must draw the same dropout
        out = model(**batch, labels=batch["input_ids"], rows=Rows(episodes=2))
        out.loss.backward()
        results.append((out.loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_training_step(tiny_model, inputs, dtype: torch.dtype) -> None:
    model, batch = tiny_model().train(), inputs(batch=4, length=13)
    reference = model(**batch, labels=batch["input_ids"]).loss
    with torch.autocast("cpu", dtype):
        loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=0.1)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_save_and_load(tiny_model, inputs, tower_config, tmp_path) -> None:
    model, batch = tiny_model(vision_tower=tower_config), inputs()
    model.save_pretrained(tmp_path)
    loaded = BitMarForCausalLM.from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    base = BitMarModel.from_pretrained(tmp_path)
    assert torch.equal(base(**batch).last_hidden_state, model.model(**batch).last_hidden_state)


@pytest.mark.parametrize("rule", ["address", "literal"])
def test_what_a_checkpoint_lacks_starts_fresh(tiny_model, tmp_path, rule: str) -> None:
    """A memory may be switched on in a checkpoint that was trained without: nothing may be left uninitialised."""
    switched_on = {
        "memory_integration": "per_layer",
        "write_rule": rule,
        "query_pooling": "learned",
        "memory_slots": 256,
    }
    tiny_model(memory_integration="off").model.save_pretrained(tmp_path)
    loaded = dict(BitMarForCausalLM.from_pretrained(tmp_path, **switched_on).named_parameters())
    for name, fresh in tiny_model(**switched_on).named_parameters():
        assert torch.isfinite(loaded[name]).all(), name
        if fresh.numel() == 1 or name.endswith(("norm.weight", "memory.address", "memory.pooling")):
            torch.testing.assert_close(loaded[name], fresh, msg=name)
        else:
            assert loaded[name].std().item() == pytest.approx(fresh.std().item(), rel=0.2), name
