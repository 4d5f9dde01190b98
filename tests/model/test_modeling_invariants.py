"""The promises of the architecture: no look ahead, no leak, one result by every path, no neighbours, no history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bitmar.model import modeling_bitmar
from bitmar.model.arguments import Rows
from bitmar.model.memory import EpisodicMemory, MemoryState
from bitmar.model.modeling_bitmar import BitMarForCausalLM, Positions

INTEGRATIONS = ("per_layer", "add", "concat", "off")
LENGTH = 22  # S + W is 8, a segment 5

Make = Callable[..., BitMarForCausalLM]


@pytest.fixture(autouse=True)
def no_grad(request: pytest.FixtureRequest) -> Any:
    with torch.set_grad_enabled("trains" in request.node.name):
        yield


# 1. Causality, bit for bit.


def changed_from(ids: Tensor, t: int) -> Tensor:
    """Every token after t is another one."""
    other = ids.clone()
    other[:, t + 1 :] = 3 + (other[:, t + 1 :] - 3 + 7) % 58
    assert (other[:, t + 1 :] != ids[:, t + 1 :]).all()
    return other


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_later_tokens_change_no_bit_before_them(tiny_model: Make, inputs: Any, integration: str, write: bool) -> None:
    model, batch = tiny_model(memory_integration=integration), inputs(length=LENGTH)
    ids, picture = batch["input_ids"], batch["vision_features"]
    before = model(ids, vision_features=picture, write_memory=write).logits
    for t in range(LENGTH - 1):
        after = model(changed_from(ids, t), vision_features=picture, write_memory=write).logits
        assert torch.equal(after[:, : t + 1], before[:, : t + 1])
        assert not torch.equal(after[:, t + 1], before[:, t + 1])


def test_later_tokens_change_no_bit_with_cache_memory_and_padding(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(), inputs(length=LENGTH)
    ids, picture = batch["input_ids"], batch["vision_features"]
    state = model(**inputs(seed=8), write_memory=True).memory
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    start = 9

    def run(tokens: Tensor) -> Tensor:
        cache = model.model.new_cache()
        model(tokens[:, :start], mask[:, :start], vision_features=picture, past_key_values=cache, memory=state)
        return model(tokens[:, start:], mask, past_key_values=cache, write_memory=True).logits

    before = run(ids)
    for t in range(start, LENGTH - 1):
        assert torch.equal(run(changed_from(ids, t))[:, : t + 1 - start], before[:, : t + 1 - start])


# 2. Random tokens cannot be predicted.


def trained_loss(model: BitMarForCausalLM, alphabet: int, *, rows: int, length: int, steps: int) -> float:
    """Mean loss in nats over the last twenty of `steps` batches of i.i.d. tokens; no batch is seen twice.

    Rows have a picture, stand in chains of two and write to the memory at every segment: all paths are on.
    """
    model.memory_weight = 0.0  # what is asked here is whether the text can be known, not how little is written
    generator, losses = torch.Generator().manual_seed(11), []
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for _ in range(steps):
        ids = torch.randint(3, 3 + alphabet, (rows, length), generator=generator)
        picture = torch.randn(rows, 9, 12, generator=generator)
        out = model(ids, labels=ids, vision_features=picture, rows=Rows(episodes=2))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.lm_loss.item())
    return sum(losses[-20:]) / 20


class OneAhead(Positions):
    """The leak of an off-by-one mask: every query also sees the key after it."""

    def __init__(self, query: Tensor, key: Tensor, *rest: Any) -> None:
        super().__init__(query, key, *rest)
        hidden = key.unsqueeze(1) > query.unsqueeze(2) + 1
        self.mask = torch.zeros_like(self.mask).masked_fill_(hidden, torch.finfo(torch.float32).min)


def pool_over_the_row(original: Callable) -> Callable:
    """The leak of a query pooled over the whole row: what the read returns knows the targets."""

    def query(self: EpisodicMemory, fused: Tensor, mask: Tensor, carry: Any = None) -> tuple:
        q, segment, carry = original(self, fused, mask, carry)
        return q[:, -1:].expand_as(q), segment, carry

    return query


def write_before_reading(original: Callable) -> Callable:
    """The leak of a segment that reads the memory after its own write."""

    def scan(self: EpisodicMemory, q: Tensor, valid: Tensor, state: MemoryState, one_shot: bool) -> tuple:
        _, last, change = original(self, q, valid, state, one_shot)
        after = []
        for s in range(q.shape[1]):
            state, _ = self.write(q[:, s], state, valid[:, s])
            after.append(state)
        slots, usage = (torch.stack(x, 1).flatten(0, 1) for x in zip(*after, strict=True))
        return MemoryState(slots, usage), last, change

    return scan


@pytest.mark.parametrize(
    ("leak", "alphabet", "shape"),
    [
        ("none", 8, {"rows": 16, "length": 16, "steps": 100}),
        ("mask", 8, {"rows": 16, "length": 16, "steps": 100}),
        ("none", 4, {"rows": 64, "length": 3, "steps": 260}),
        ("pooling", 4, {"rows": 64, "length": 3, "steps": 160}),
        ("write", 4, {"rows": 64, "length": 3, "steps": 260}),
    ],
)
def test_trains_on_random_tokens(
    tiny_model: Make, monkeypatch: pytest.MonkeyPatch, leak: str, alphabet: int, shape: dict
) -> None:
    """The loss stays at ln V; with a leak built in, the same training falls below it, so the probe would tell."""
    if leak == "mask":
        monkeypatch.setattr(modeling_bitmar, "Positions", OneAhead)
    elif leak == "pooling":
        monkeypatch.setattr(EpisodicMemory, "query", pool_over_the_row(EpisodicMemory.query))
    elif leak == "write":
        monkeypatch.setattr(EpisodicMemory, "scan", write_before_reading(EpisodicMemory.scan))
    loss = trained_loss(tiny_model(vocab_size=alphabet + 3, memory_alpha=1.0), alphabet, **shape)
    if leak == "none":
        assert math.log(alphabet) - 0.02 < loss < math.log(alphabet) + 0.1
    else:
        assert loss < math.log(alphabet) - 0.3


# 3. Cached, streamed and full-sequence logits agree.


def in_pieces(model: BitMarForCausalLM, ids: Tensor, picture: Tensor, size: int, **options: Any) -> tuple[Tensor, Any]:
    cache, logits = model.model.new_cache(), []
    for start in range(0, ids.shape[1], size):
        # The picture comes once and stays in the cache.
        features = picture if start == 0 else None
        out = model(ids[:, start : start + size], vision_features=features, past_key_values=cache, **options)
        logits.append(out.logits)
    return torch.cat(logits, 1), cache


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("quantization", ["none", "ternary"])
@pytest.mark.parametrize("integration", INTEGRATIONS)
def test_pieces_equal_the_whole(
    tiny_model: Make, inputs: Any, assert_agree: Any, integration: str, quantization: str, size: int
) -> None:
    """Size 1 is streaming. The sequence is four times S + W long."""
    model, batch = tiny_model(memory_integration=integration, quantization=quantization), inputs(length=33)
    whole = model(**batch).logits
    found, cache = in_pieces(model, batch["input_ids"], batch["vision_features"], size)
    if quantization == "none":
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    assert_agree(found, whole)
    assert cache.get_seq_length() == 33


@pytest.mark.parametrize("size", [1, 2, 5, 7, 10])
@pytest.mark.parametrize("rule", ["address", "literal"])
def test_pieces_equal_the_whole_with_writes(tiny_model: Make, inputs: Any, rule: str, size: int) -> None:
    """A segment is written when it ends, wherever the calls are cut. 30 tokens are six segments."""
    model, batch = tiny_model(write_rule=rule, quantization="none"), inputs(length=30)
    whole = model(**batch, write_memory=True)
    found, cache = in_pieces(model, batch["input_ids"], batch["vision_features"], size, write_memory=True)
    torch.testing.assert_close(found, whole.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.memory.slots, whole.memory.slots, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cache.memory.usage, whole.memory.usage, rtol=1e-4, atol=1e-5)


def test_pieces_equal_the_whole_with_a_given_memory(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(quantization="none"), inputs(length=LENGTH)
    for rows in (1, 2):
        state = model(**inputs(batch=rows, seed=6), write_memory=True).memory
        whole = model(**batch, memory=state).logits
        cache, found = model.model.new_cache(), []
        for t in range(LENGTH):
            first = {"vision_features": batch["vision_features"], "memory": state} if t == 0 else {}
            found.append(model(batch["input_ids"][:, t : t + 1], past_key_values=cache, **first).logits)
        torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)


# 4. No neighbours, no order, no history.


@pytest.mark.parametrize("quantization", ["none", "ternary"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_sequence_alone_and_among_others(
    tiny_model: Make, inputs: Any, assert_agree: Any, side: str, quantization: str
) -> None:
    """Padded to its longest neighbour, on either side, longer and shorter than S + W, with pictures and writes."""
    model, batch, lengths = (
        tiny_model(quantization=quantization),
        inputs(batch=4, length=LENGTH),
        (LENGTH, 3, 9, 14),
    )
    columns = torch.arange(LENGTH)
    mask = torch.stack([columns >= LENGTH - n if side == "left" else columns < n for n in lengths])
    together = model(**batch, attention_mask=mask.long(), write_memory=True)
    for row, one in enumerate(mask):
        features = batch["vision_features"][row : row + 1]
        alone = model(batch["input_ids"][row : row + 1, one], vision_features=features, write_memory=True)
        assert_agree(together.logits[row, one], alone.logits[0])
        if quantization == "none":
            torch.testing.assert_close(together.logits[row, one], alone.logits[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(together.memory.slots[row], alone.memory.slots[0], rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter(tiny_model: Make, inputs: Any) -> None:
    model, batch = tiny_model(), inputs(length=9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    before = model(**batch, attention_mask=mask, write_memory=True)
    batch["input_ids"][0, :4] = 5
    after = model(**batch, attention_mask=mask, write_memory=True)
    assert torch.equal(before.logits[mask.bool()], after.logits[mask.bool()])
    assert torch.equal(before.memory.slots, after.memory.slots)


def test_the_order_of_the_batch_does_not_matter(tiny_model: Make, inputs: Any, assert_agree: Any) -> None:
    model, batch = tiny_model(), inputs(batch=5)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = model(**{k: v[order] for k, v in batch.items()}).logits
    assert_agree(shuffled, model(**batch).logits[order])


def test_nothing_is_remembered_between_calls(tiny_model: Make, inputs: Any) -> None:
    """Not by evaluating, writing, streaming, training steps without an update, or generating in between."""
    model, batch, other = tiny_model(), inputs(), inputs(batch=3, seed=4)
    before = model(**batch).logits
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    model(**other, write_memory=True)
    in_pieces(model, other["input_ids"], other["vision_features"], 4, write_memory=True)
    model.generate(**other, max_new_tokens=4, do_sample=False)
    model.train()(**other, labels=other["input_ids"])
    model.eval()
    assert torch.equal(model(**batch).logits, before)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
