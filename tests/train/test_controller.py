from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.train import controller
from bitmar.train.controller import ACTIONS, AlignmentController, ControllerCallback


def feed(watch: AlignmentController, start: int, cosines: list[float]) -> list[str | None]:
    return [watch.observe(start + i, cosine) for i, cosine in enumerate(cosines)]


def test_the_average_is_exponential_over_200_steps() -> None:
    watch = AlignmentController()
    expected = 0.5
    for step, cosine in enumerate([0.5, 0.9, -0.2, 0.4]):
        watch.observe(step, cosine)
        expected = expected if step == 0 else (1 - 2 / 201) * expected + 2 / 201 * cosine
    assert watch.state.ema == pytest.approx(expected)


def test_a_fall_of_more_than_012_calls_for_one_action_of_1500_steps() -> None:
    watch = AlignmentController()
    assert not any(feed(watch, 0, [0.5] * 900))
    low = 0.5 - 0.12 - 0.01  # the average comes as near to it as one likes, and 0.12 below 0.5 after ln(13) * 100 steps
    actions = feed(watch, 900, [low] * 2500)
    first = next(i for i, action in enumerate(actions) if action)
    assert 0.5 - watch.state.ema > 0.12 and 255 < first < 260
    assert set(actions[first : first + 1500]) == {actions[first]} <= {*ACTIONS}
    assert not any(actions[first + 1500 :])  # the same low level is no new fall


def test_a_smaller_fall_is_let_pass() -> None:
    watch = AlignmentController()
    assert not any(feed(watch, 0, [0.5] * 500 + [0.385] * 3000))


def test_at_least_800_steps_between_two_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "DURATION", 10)
    watch = AlignmentController()
    actions = feed(watch, 0, [1 - step / 500 for step in range(3000)])  # falls for ever
    starts = [i for i in range(1, 3000) if actions[i] and not actions[i - 1]]
    assert len(starts) >= 3
    assert all(b - a >= 800 for a, b in pairwise(starts))
    assert starts[1] - starts[0] == 800  # and no longer than that


def test_the_choice_depends_on_seed_and_step_alone() -> None:
    def chosen(seed: int) -> str | None:
        return feed(AlignmentController(seed), 0, [0.9] * 10 + [-0.9] * 100)[-1]

    assert {chosen(seed) for seed in range(20)} == {*ACTIONS}
    assert all(chosen(seed) == chosen(seed) for seed in range(5))


def test_steps_without_pictures_change_no_average() -> None:
    watch = AlignmentController()
    assert watch.observe(0, None) is None
    watch.observe(1, 0.5)
    assert feed(watch, 2, [None] * 300) == [None] * 300  # type: ignore[list-item]
    assert watch.state.ema == 0.5


@pytest.fixture
def model() -> BitMarForCausalLM:
    torch.manual_seed(0)
    tower = {
        "image_size": 32, "stem_channels": [4, 4], "stem_blocks": 0, "bottlenecks": [4, 4], "widths": [8],
        "depths": [1], "head_dim": 4, "out_dim": 6,
    }  # fmt: skip
    config = BitMarConfig(
        vocab_size=40, hidden_size=16, num_heads=2, encoder_layers=1, decoder_layers=1, intermediate_size=16,
        memory_slots=4, memory_dim=16, vision_dim=6, vision_grid=2, vision_pool=1, vision_hidden=8, vision_tower=tower,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return BitMarForCausalLM(config).train()


def act(model: BitMarForCausalLM, action: str | None, step: int = 5) -> tuple[ControllerCallback, SimpleNamespace]:
    """A callback in the midst of `action`, after a backward pass and before the optimiser."""
    callback = ControllerCallback(model)
    callback.controller.state.ema, callback.controller.state.action, callback.controller.state.until = 0.3, action, 100
    ids = torch.randint(3, 40, (4, 8))
    model(input_ids=ids, labels=ids, pixel_values=torch.randn(4, 3, 32, 32)).loss.backward()
    state = SimpleNamespace(global_step=step, is_world_process_zero=True, stateful_callbacks={})
    callback.on_pre_optimizer_step(None, state, None)
    return callback, state


def has_gradients(module: torch.nn.Module) -> set[bool]:
    return {p.grad is not None for p in module.parameters()}


@pytest.mark.parametrize(
    "action, frozen", [("freeze_text", ("encoder",)), ("freeze_vision", ("vision", "vision_tower")), (None, ())]
)
def test_freezing_drops_the_gradients_of_one_side_only(
    model: BitMarForCausalLM, action: str | None, frozen: tuple[str, ...]
) -> None:
    act(model, action)
    for name in ("encoder", "vision", "vision_tower", "decoder", "fusion"):
        assert has_gradients(getattr(model.model, name)) == {name not in frozen}, name
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5).step()
    moved = {name.split(".")[1] for name, p in model.model.named_parameters("model") if not p.equal(before[name])}
    assert moved & {"encoder", "vision", "vision_tower"} == {"encoder", "vision", "vision_tower"} - {*frozen}


def test_upweighting_comes_and_goes_and_survives_a_resume(model: BitMarForCausalLM) -> None:
    assert model.contrastive_weight == 1.5
    callback, state = act(model, None)
    callback.controller.state.action = "upweight"
    state.stateful_callbacks = {"ControllerCallback": callback.state()}
    resumed = ControllerCallback(model)
    resumed.on_train_begin(None, state, None)
    assert model.contrastive_weight == 3.0  # before the first loss of the resumed run
    assert resumed.controller.state == callback.controller.state
    state.global_step = 101
    resumed.on_pre_optimizer_step(None, state, None)
    assert model.contrastive_weight == 1.5


def test_one_cosine_is_observed_once(model: BitMarForCausalLM) -> None:
    callback, state = act(model, None)
    callback.cosine = 0.9
    callback.on_pre_optimizer_step(None, state, None)
    ema = callback.controller.state.ema
    callback.on_pre_optimizer_step(None, state, None)
    assert callback.controller.state.ema == ema != 0.3


def test_a_checkpoint_from_before_the_controller_was_switched_on(model: BitMarForCausalLM) -> None:
    callback = ControllerCallback(model)
    state: Any = SimpleNamespace(stateful_callbacks={})
    callback.on_train_begin(None, state, None)
    assert "ControllerCallback" in state.stateful_callbacks  # where the Trainer will look for it when it saves
