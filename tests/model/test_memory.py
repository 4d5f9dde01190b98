"""The episodic memory against plain loops, and its place in the model: segments, episodes, states passed in and out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitmar.model.arguments import Rows
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.memory import USAGE_FLOOR, EpisodicMemory, MemoryState, QueryCarry

K, C, SEGMENT = 8, 16, 5
RULES = ("address", "literal")


@pytest.fixture
def make_memory(tiny_config: Callable[..., BitMarConfig]) -> Callable[..., EpisodicMemory]:
    """make_memory(name=value, ...) -> a memory whose every parameter is off its special starting value."""

    def make(**changes: object) -> EpisodicMemory:
        torch.manual_seed(3)
        memory = EpisodicMemory(tiny_config(**changes))
        with torch.no_grad():
            for parameter in memory.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.5)
        return memory

    return make


def random_state(batch: int) -> MemoryState:
    return MemoryState(torch.randn(batch, K, C), torch.rand(batch, K))


def softmax(values: list[Tensor]) -> Tensor:
    return torch.stack(values).softmax(0)


def read_by_loops(memory: EpisodicMemory, q: Tensor, slots: Tensor, usage: Tensor) -> tuple[Tensor, Tensor]:
    rho, usage = F.softplus(memory.stale), usage.tolist()
    weights = softmax(
        [memory.read_beta * (q @ slots[k]) + rho * math.log(max(usage[k], USAGE_FLOOR)) for k in range(K)]
    )
    return sum(weights[k] * slots[k] for k in range(K)), weights


def write_by_loops(memory: EpisodicMemory, q: Tensor, slots: Tensor, usage: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Equation 1, slot by slot: the new slots, the new usage, the squared change."""
    if memory.write_rule == "literal":
        a = memory.write_weights
        new = torch.stack([slots[k] + memory.alpha * a[k] * q for k in range(K)])
    else:
        kappa = F.softplus(memory.protect)
        a = softmax([memory.write_beta * (memory.address @ q) @ slots[k] - kappa * usage[k] for k in range(K)])
        step = memory.alpha * a
        new = torch.stack([(1 - step[k]) * slots[k] + step[k] * q for k in range(K)])
    _, reads = read_by_loops(memory, q, slots, usage)
    new_usage = (memory.decay * usage + a.abs() + reads).clamp(0, 1)
    return new, new_usage, (new - slots).square().sum()


@pytest.mark.parametrize("rule", RULES)
def test_read_and_write_are_the_equations(make_memory: Callable[..., EpisodicMemory], rule: str) -> None:
    memory, q, state = make_memory(write_rule=rule), torch.randn(3, 4, C), random_state(3)
    read, weights = memory.read(q, state)
    after, change = memory.write(q[:, 0], state)
    for b in range(3):
        for t in range(4):
            expected, expected_weights = read_by_loops(memory, q[b, t], state.slots[b], state.usage[b])
            torch.testing.assert_close(read[b, t], expected)
            torch.testing.assert_close(weights[b, t], expected_weights)
        slots, usage, squared = write_by_loops(memory, q[b, 0], state.slots[b], state.usage[b])
        torch.testing.assert_close(after.slots[b], slots)
        torch.testing.assert_close(after.usage[b], usage)
        torch.testing.assert_close(change[b], squared)


def test_stale_slots_lose_in_reads_and_win_in_writes(make_memory: Callable[..., EpisodicMemory]) -> None:
    memory, slots = make_memory(), torch.randn(1, 1, C).expand(1, K, C)
    usage = torch.linspace(1, 0.01, K).unsqueeze(0)
    _, weights = memory.read(torch.randn(1, 1, C), MemoryState(slots, usage))
    assert (weights[0, 0].diff() < 0).all()
    after, _ = memory.write(torch.randn(1, C), MemoryState(slots, usage))
    assert ((after.slots - slots).norm(dim=-1)[0].diff() > 0).all()


def test_usage_decays_without_touch(make_memory: Callable[..., EpisodicMemory]) -> None:
    """A slot that writes and reads never choose falls by `decay` at every write, and only at writes."""
    memory = make_memory()
    with torch.no_grad():
        memory.read_beta.fill_(1.0)
        memory.write_beta.fill_(1.0)
        memory.address.copy_(torch.eye(C))
    q = torch.ones(1, C)
    slots = torch.cat((q * 5, q.expand(K - 1, C) * -5)).unsqueeze(0)
    state = MemoryState(slots, torch.full((1, K), 0.5))
    for step in range(1, 4):
        state, _ = memory.write(q, state)
        torch.testing.assert_close(state.usage[0, 1:], torch.full((K - 1,), 0.5 * memory.decay**step))
        assert state.usage[0, 0] == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_scan_is_one_write_after_the_other(make_memory: Callable[..., EpisodicMemory], rule: str) -> None:
    memory, q, state = make_memory(write_rule=rule), torch.randn(2, 4, C), random_state(2)
    valid = torch.tensor([[True, True, False, True], [False, True, True, False]])
    read, after, change = memory.scan(q, valid, state)
    changes = []
    for b in range(2):
        slots, usage = state.slots[b], state.usage[b]
        for s in range(4):
            torch.testing.assert_close(read.slots[b * 4 + s], slots)  # read before its own write
            torch.testing.assert_close(read.usage[b * 4 + s], usage)
            if valid[b, s]:
                slots, usage, squared = write_by_loops(memory, q[b, s], slots, usage)
                changes.append(squared)
        torch.testing.assert_close(after.slots[b], slots)
        torch.testing.assert_close(after.usage[b], usage)
    torch.testing.assert_close(change, torch.stack(changes).mean())


def test_a_later_read_teaches_an_earlier_write(make_memory: Callable[..., EpisodicMemory]) -> None:
    memory, q = make_memory(), torch.randn(1, 2, C)
    read, _, _ = memory.scan(q, torch.ones(1, 2, dtype=torch.bool), memory.initial_state(1))
    out, _ = memory.read(q[:, 1:], MemoryState(read.slots[1:], read.usage[1:]))
    out.square().sum().backward()
    for name in ("slots", "address", "write_beta", "protect", "read_beta"):
        assert getattr(memory, name).grad.abs().sum() > 0, name


def query_by_loops(memory: EpisodicMemory, fused: Tensor, mask: Tensor) -> tuple[list[Tensor], list[int]]:
    """Of one sequence: the running (weighted) mean over the current segment, at every valid token."""
    queries, segments, members = [], [], []
    for token in (x for x, m in zip(fused, mask, strict=True) if m):
        if len(members) == SEGMENT:
            members = []
        members.append(token)
        seen = torch.stack(members)
        weight = torch.ones(len(seen)) if memory.pooling is None else (seen @ memory.pooling).clamp(-10, 10).exp()
        mean = (weight.unsqueeze(1) * seen).sum(0) / weight.sum()
        queries.append(memory.query_norm(memory.query_proj(mean)))
        segments.append(len(segments) // SEGMENT)
    return queries, segments


@pytest.mark.parametrize("pooling", ["mean", "learned"])
def test_query_is_the_running_mean_of_the_segment(make_memory: Callable[..., EpisodicMemory], pooling: str) -> None:
    memory, fused = make_memory(query_pooling=pooling, quantization="none"), torch.randn(3, 13, 32)
    mask = torch.ones(3, 13, dtype=torch.bool)
    mask[1, :4] = False  # padded left
    mask[2, 9:] = False  # padded right
    q, segment, _ = memory.query(fused, mask)
    for b in range(3):
        expected, segments = query_by_loops(memory, fused[b], mask[b])
        torch.testing.assert_close(q[b][mask[b]], torch.stack(expected), rtol=1e-4, atol=1e-5)
        assert segment[b][mask[b]].tolist() == segments


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), pooling=st.sampled_from(["mean", "learned"]))
def test_query_in_pieces_equals_query_at_once(sizes: list[int], pooling: str) -> None:
    torch.manual_seed(len(sizes))
    config = BitMarConfig(
        hidden_size=32,
        memory_dim=C,
        memory_slots=K,
        memory_segment=SEGMENT,
        query_pooling=pooling,
        quantization="none",
    )
    memory, fused = EpisodicMemory(config), torch.randn(2, sum(sizes), 32)
    mask = torch.ones(2, sum(sizes), dtype=torch.bool)
    mask[1, : sizes[0]] = False
    whole, _, last = memory.query(fused, mask)
    pieces, carry = [], None
    for x, m in zip(fused.split(sizes, 1), mask.split(sizes, 1), strict=True):
        q, _, carry = memory.query(x, m, carry)
        pieces.append(q)
    # Padding's own query means nothing.
    torch.testing.assert_close(torch.cat(pieces, 1)[mask], whole[mask], rtol=1e-4, atol=1e-5)
    assert isinstance(carry, QueryCarry) and torch.equal(carry.length[:, -1], last.length[:, -1])


# In the model.


def test_the_first_segment_reads_the_state_that_came_in(tiny_model, inputs) -> None:
    model, row = tiny_model(), inputs(length=3 * SEGMENT)
    written, frozen = model(**row, write_memory=True), model(**row, write_memory=False)
    assert torch.equal(written.logits[:, :SEGMENT], frozen.logits[:, :SEGMENT])
    assert not torch.allclose(written.logits[:, SEGMENT:], frozen.logits[:, SEGMENT:], atol=1e-3)
    assert not torch.allclose(written.memory.slots, frozen.memory.slots, atol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_a_row_of_segments_is_a_chain_of_rows(tiny_model, inputs, rule: str, assert_agree) -> None:
    """With attention out of the way (one token sees only itself), segments could as well be calls that pass M on."""
    model = tiny_model(write_rule=rule, attention_window=1, attention_sinks=0)
    row = inputs(length=3 * SEGMENT)
    whole, state, parts = model(**row, write_memory=True), None, []
    for ids in row["input_ids"].split(SEGMENT, 1):
        out = model(ids, vision_features=row["vision_features"], memory=state, write_memory=True)
        state = out.memory
        parts.append(out.logits)
    assert_agree(torch.cat(parts, 1), whole.logits)
    torch.testing.assert_close(state.slots, whole.memory.slots, rtol=1e-3, atol=1e-3)


def test_episodes_chain_consecutive_sequences(tiny_model, inputs, assert_agree) -> None:
    model, batch = tiny_model(), inputs(batch=6, length=7)
    together = model(**batch, write_memory=True, rows=Rows(episodes=3))
    assert together.memory.slots.shape == (2, K, C)
    for chain in range(2):
        state = None
        for row in range(3 * chain, 3 * chain + 3):
            out = model(**{k: v[row : row + 1] for k, v in batch.items()}, memory=state, write_memory=True)
            state = out.memory
            assert_agree(out.logits[0], together.logits[row])
        torch.testing.assert_close(state.slots[0], together.memory.slots[chain], rtol=1e-3, atol=1e-3)


def test_a_frozen_state_is_returned_as_it_came(tiny_model, inputs) -> None:
    model, row = tiny_model(), inputs()
    state = model(**row, write_memory=True).memory
    again = model(**row, memory=state)
    assert torch.equal(again.memory.slots, state.slots) and torch.equal(again.memory.usage, state.usage)
    assert not torch.allclose(again.logits, model(**row).logits, atol=1e-3)


def test_one_state_serves_a_batch(tiny_model, inputs) -> None:
    model, row = tiny_model(), inputs(batch=4)
    state = model(**inputs(batch=1, seed=9), write_memory=True).memory
    spread = MemoryState(*(x.expand(4, *x.shape[1:]) for x in state))
    assert torch.equal(model(**row, memory=state).logits, model(**row, memory=spread).logits)


def test_the_read_can_be_switched_off(tiny_model, inputs) -> None:
    model, row = tiny_model(), inputs()
    state = model(**inputs(seed=5), write_memory=True).memory
    off = model(**row, read_memory=False).logits
    assert torch.equal(off, model(**row, memory=state, read_memory=False).logits)
    assert not torch.allclose(off, model(**row).logits, atol=1e-3)


def test_one_shot_writes_fill_slots_of_their_own(make_memory: Callable[..., EpisodicMemory]) -> None:
    memory, state = make_memory(), random_state(2)
    q = torch.randn(2, 3, C, requires_grad=True)
    valid = torch.tensor([[True, True, True], [True, False, True]])
    read, after, _ = memory.scan(q, valid, state, one_shot=True)
    for b in range(2):
        written = [s for s in range(3) if valid[b, s]]
        places = [int((after.slots[b] == q[b, s]).all(-1).nonzero()) for s in written]
        assert len(set(places)) == len(written)
        assert (after.usage[b, places] == 1).all()
        kept = torch.ones(K, dtype=torch.bool)
        kept[places] = False
        assert torch.equal(after.slots[b, kept], state.slots[b, kept])
        # What an episode wrote is there for the next one, not for itself.
        seen = read.slots.unflatten(0, (2, 3))[b]
        assert torch.equal(seen[0], state.slots[b]) and torch.equal(seen[1, places[0]], q[b, written[0]])
    after.slots.square().sum().backward()
    assert q.grad[0].abs().min() > 0 and (q.grad[1, 1] == 0).all()


def test_a_model_learns_to_read_what_was_written_once(tiny_model, inputs) -> None:
    """Gradients reach the writer of an episode from the loss of a later one alone."""
    model = tiny_model().train()
    batch = inputs(2)
    labels = batch["input_ids"].clone()
    labels[0] = -100  # only the second episode is predicted
    embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    model(inputs_embeds=embedded, labels=labels, rows=Rows(episodes=2, one_shot=True)).loss.backward()
    assert embedded.grad[0].abs().sum() > 0
