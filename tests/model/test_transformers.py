"""What people who know transformers expect of a model; docs/model.md lists it, each row with its test."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from bitmar.model.modeling_bitmar import BitMarForCausalLM

LENGTHS = (7, 12)


def padded(side: str) -> tuple[Tensor, Tensor]:
    """Two sequences of 7 and 12 tokens and their mask (2, 12)."""
    torch.manual_seed(1)
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
    for row, n in enumerate(LENGTHS):
        where = slice(12 - n, 12) if side == "left" else slice(0, n)
        ids[row, where], mask[row, where] = torch.randint(3, 61, (n,)), 1
    return ids, mask


def with_query_rows(mask: Tensor, padded_rows: str) -> Tensor:
    """(B, T) -> (B, 1, T, T) bool; what stands in the rows of padded queries differs between libraries."""
    length = mask.shape[1]
    full = (mask[:, None, :] & torch.ones(length, length, dtype=torch.long).tril()).bool()
    queries = mask.bool().unsqueeze(-1)
    if padded_rows == "nothing":
        full = full & queries
    elif padded_rows == "everything":
        full = torch.where(full.any(-1, keepdim=True), full, torch.ones_like(full))
    elif padded_rows == "themselves":
        full = torch.where(queries, full, torch.eye(length, dtype=torch.bool))
    return full.unsqueeze(1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", ["causal", "nothing", "everything", "themselves"])
@pytest.mark.parametrize("kind", ["bool", "long", "factors", "summands", "infinite", "3d"])
def test_a_mask_of_any_shape_says_what_is_padding(tiny_model, side: str, rows: str, kind: str) -> None:
    model = tiny_model(attention_window=40)
    ids, mask = padded(side)
    full = with_query_rows(mask, rows)
    given = {
        "bool": lambda: full,
        "long": lambda: full.long(),
        "factors": lambda: full.float(),
        "summands": lambda: torch.zeros(full.shape).masked_fill(~full, torch.finfo(torch.float32).min),
        "infinite": lambda: torch.zeros(full.shape).masked_fill(~full, -torch.inf),
        "3d": lambda: full[:, 0],
    }[kind]()
    with torch.no_grad():
        expected, found = model(ids, mask).logits, model(ids, given).logits
    assert torch.equal(found[mask.bool()], expected[mask.bool()])


def test_a_mask_of_another_meaning_is_refused(tiny_model) -> None:
    model, ids = tiny_model(), torch.full((1, 6), 5)
    two_documents = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).tril().bool()
    with pytest.raises(ValueError, match="more than padding"):
        model(ids, two_documents[None, None])
    with pytest.raises(ValueError, match="does not fit"):
        model(ids, torch.ones(1, 5))
    with pytest.raises(ValueError, match="position_ids"):
        model(ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    model(ids, position_ids=torch.arange(6)[None])


def test_a_misspelt_argument_is_refused(tiny_model, inputs) -> None:
    with pytest.raises(TypeError, match="vision_feature'"):
        tiny_model()(inputs()["input_ids"], vision_feature=inputs()["vision_features"])


def test_a_row_without_a_picture_stays_without_one(tiny_model, inputs) -> None:
    """`image_mask` holds for every later step, also for beams."""
    model, batch = tiny_model(), inputs(batch=3)
    ids, features = batch["input_ids"], batch["vision_features"]
    image_mask = torch.tensor([True, False, True])
    cache = model.model.new_cache()
    with torch.no_grad():
        whole = model(ids, vision_features=features, image_mask=image_mask).logits
        first = model(ids[:, :9], vision_features=features, image_mask=image_mask, cache=cache).logits
        rest = [model(ids[:, t : t + 1], cache=cache).logits for t in range(9, 20)]
    torch.testing.assert_close(torch.cat((first, *rest), 1), whole, rtol=1e-3, atol=1e-3)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    for beams in (1, 3):
        found = model.generate(ids, vision_features=features, image_mask=image_mask, num_beams=beams, **options)
        assert found[1].tolist() == model.generate(ids[1:2], num_beams=beams, **options)[0].tolist()


@pytest.mark.parametrize("quantization", ["ternary", "none"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_sixteen_bits(tiny_model, tower_config, dtype: torch.dtype, quantization: str) -> None:
    model = tiny_model(quantization=quantization, vision_tower=tower_config, attention_window=40)
    torch.manual_seed(2)
    ids, pixels = torch.randint(3, 61, (2, 14)), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = model(ids, pixel_values=pixels, write_memory=True, output_hidden_states=True)
        model = model.to(dtype)
        found = model(ids, pixel_values=pixels, write_memory=True, output_hidden_states=True)
    assert found.logits.dtype == torch.float32
    assert torch.isfinite(found.logits).all()
    cosine = torch.nn.functional.cosine_similarity(found.logits, expected.logits, dim=-1)
    assert cosine.mean() > 0.9
    model.generate(ids, pixel_values=pixels, max_new_tokens=3, do_sample=False, num_beams=2)
    model.train()(ids, pixel_values=pixels, labels=ids).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_relu2_does_not_overflow_float16(tiny_model) -> None:
    from bitmar.model.bitlinear import BitLinear, activation

    x = torch.tensor([[300.0, -300.0, 1000.0, 2.0]], dtype=torch.float16)
    squares = activation("relu2", x)
    assert squares.tolist() == [[90_000.0, 0.0, 1_000_000.0, 4.0]]
    for quantization in ("ternary", "none"):
        assert torch.isfinite(BitLinear(4, 3, quantization).half()(squares)).all()


def test_attentions_are_those_that_the_layers_used(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs()
    out = model(**batch, output_attentions=True, output_hidden_states=True)
    assert len(out.attentions) == 4 and len(out.hidden_states) == 5 and len(out.cross_attentions) == 1
    for weights in out.attentions:
        assert weights.shape == (2, 2, 20, 20)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 20))
        assert (weights.triu(1) == 0).all()
    assert out.cross_attentions[0].shape == (2, 2, 20, 4)
    attn = model.model.encoder.layers[0].attn
    x = model.model.encoder.layers[0].attn_norm(out.hidden_states[0])
    values = attn.qkv_proj(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)[2]
    seen = attn.o_proj((out.attentions[0] @ values).transpose(1, 2).flatten(2))
    block = model.model.encoder.layers[0]
    h = out.hidden_states[0] + seen
    torch.testing.assert_close(h + block.mlp(block.mlp_norm(h)), out.hidden_states[1], rtol=1e-3, atol=1e-3)
    assert model(**batch).attentions is None
    made = model.generate(
        **batch,
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=None,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    assert len(made.attentions) == 3 and len(made.attentions[0]) == 4


def test_a_tuple_on_request(tiny_model, inputs) -> None:
    model, batch = tiny_model(), inputs()
    found = model(**batch, return_dict=False)
    assert isinstance(found, tuple) and torch.equal(found[0], model(**batch).logits)


class Rows(torch.utils.data.Dataset):
    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: value[i] for name, value in self.batch.items()} | {"labels": self.batch["input_ids"][i]}


def test_a_plain_trainer_trains_and_evaluates(tiny_model, inputs, tmp_path) -> None:
    seen = {}

    def metrics(prediction) -> dict[str, float]:
        seen["logits"] = prediction.predictions
        return {"right": float((prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]).mean())}

    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, per_device_eval_batch_size=2, eval_strategy="steps",
        eval_steps=1, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    model, data = tiny_model(), Rows(inputs(batch=6))
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=metrics)
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_loss"] > 0 and "eval_right" in found
    assert seen["logits"].shape == (6, 20, 61)


def text_path(model: BitMarForCausalLM):
    class TextPath(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(input_ids, attention_mask).logits

    return TextPath().eval()


def test_export_of_the_text_path(tiny_model) -> None:
    model = tiny_model(attention_window=40, memory_segment=64)
    ids, mask = padded("left")
    length = torch.export.Dim("length", min=2, max=42)
    with torch.no_grad():
        program = torch.export.export(
            text_path(model), (ids, mask), dynamic_shapes={"input_ids": {1: length}, "attention_mask": {1: length}}
        )
        for n in (12, 5):
            found = program.module()(ids[:, -n:], mask[:, -n:])
            torch.testing.assert_close(found, model(ids[:, -n:], mask[:, -n:]).logits, rtol=1e-4, atol=1e-4)


def test_one_graph_when_compiled(tiny_model) -> None:
    """No break: nothing asks a tensor for its value. (The eager backend needs no C++ compiler.)"""
    model = tiny_model()
    ids, mask = padded("right")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        found, expected = compiled(ids, mask).logits, model(ids, mask).logits
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
