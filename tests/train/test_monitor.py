from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from bitmar.model.bitlinear import BitLinear, quantize_weight
from bitmar.train import fit, monitor
from bitmar.train.monitor import Display, evaluate, gates, loss_terms, memory_utilisation, zero_fractions
from bitmar.train.recipe import load_recipe
from bitmar.train.runs import read_log
from bitmar.train.stages import Fit
from bitmar.train.workspace import Workspace


def test_utilisation_of_even_and_of_narrow_reads() -> None:
    even = memory_utilisation(torch.full((3, 5, 8), 1 / 8))
    assert {name: value.item() for name, value in even.items()} == pytest.approx(
        {"read_entropy": 1.0, "slot_entropy": 1.0, "live_slots": 1.0}
    )
    narrow = memory_utilisation(torch.eye(8)[torch.zeros(3, 5, dtype=torch.long)])
    assert [narrow[name].item() for name in ("read_entropy", "slot_entropy", "live_slots")] == pytest.approx(
        [0, 0, 1 / 8]
    )
    turns = memory_utilisation(torch.eye(8).unsqueeze(0))  # every read is narrow, together they are even
    assert [turns[name].item() for name in ("read_entropy", "slot_entropy")] == pytest.approx([0, 1])


def test_loss_terms_leave_out_what_a_batch_has_not() -> None:
    class Output(dict):
        pass

    terms = loss_terms(Output(loss=torch.tensor(1.0), lm_loss=torch.tensor(2.0), alignment=None))
    assert terms == {"lm": torch.tensor(2.0)}


@pytest.fixture
def built(recipe: dict[str, Any], write: Callable[..., Path]) -> tuple[Any, dict[str, Any]]:
    """The recipe's model and its held-out sources."""
    loaded = load_recipe(write(recipe))
    stage, workspace = loaded.stages[0], Workspace(loaded)
    assert isinstance(stage, Fit)
    return fit.build_model(stage, workspace, {}), fit.batches(stage, workspace)[1]


def test_zero_fractions_of_every_ternary_layer(built: tuple[Any, dict[str, Any]]) -> None:
    model, _ = built
    found = zero_fractions(model)
    assert {n for n, m in model.named_modules() if isinstance(m, BitLinear)} < found.keys()  # and the convolutions
    codes = quantize_weight(model.lm_head.weight)[0]
    assert found["lm_head"] == pytest.approx((codes == 0).float().mean().item())
    assert 0.2 < sum(found.values()) / len(found) < 0.45  # a Gaussian has 31 % of its weights below half its mean


def test_gates_are_named_by_layer(built: tuple[Any, dict[str, Any]]) -> None:
    model, _ = built
    model.model.decoder.layers[1].memory_gate.data.fill_(-0.25)
    assert gates(model) == {"gate_0": 0.1, "gate_1": 0.25}


def test_evaluation_is_repeatable_and_leaves_no_trace(built: tuple[Any, dict[str, Any]]) -> None:
    model, checks = built
    model.train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    first = evaluate(model, checks)
    assert evaluate(model, checks) == first
    assert model.training and torch.get_rng_state().equal(random)
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())  # batch norms, too
    expected = {f"{name}_{what}" for name in ("text", "captions") for what in ("loss", "perplexity", "memory_gain")}
    assert first.keys() == {*expected, "captions_alignment"}
    assert first["text_perplexity"] == pytest.approx(torch.tensor(first["text_loss"]).exp().item(), rel=1e-3)


def test_evaluation_feels_the_memory(built: tuple[Any, dict[str, Any]]) -> None:
    model, checks = built
    for block in model.model.decoder.layers:
        block.memory_gate.data.fill_(3.0)
    loud = evaluate(model, checks)
    assert abs(loud["text_memory_gain"]) > 1e-3 and abs(loud["captions_memory_gain"]) > 1e-3
    for block in model.model.decoder.layers:
        block.memory_gate.data.zero_()
    assert evaluate(model, checks)["text_memory_gain"] == 0


def test_evaluation_weighs_tokens_not_batches(built: tuple[Any, dict[str, Any]]) -> None:
    model, checks = built
    source = checks["text"]
    total = tokens = 0.0
    model.eval()
    with torch.no_grad():
        for batch in source:
            inputs = {name: torch.as_tensor(value) for name, value in batch.items()}
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
            labels = inputs["labels"][:, 1:]
            total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
            tokens += int((labels != -100).sum())
    assert evaluate(model, {"text": source}, batches=len(source))["text_loss"] == pytest.approx(
        total / tokens, abs=1e-3
    )


def test_one_process_of_many_shows_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, lines in ((0, 1), (1, 0)):
        display, log = Display("toy"), monitor.LogFile(tmp_path / str(rank))
        display.console = Console(stderr=True)
        state = SimpleNamespace(is_world_process_zero=rank == 0, max_steps=2, global_step=1, log_history=[])
        for callback in (display, log):
            callback.on_train_begin(None, state, None)
            state.log_history = [{"loss": 1.0, "step": 1}]
            callback.on_log(None, state, None, logs={"loss": 1.0})
            state.log_history = []
        display.stop()
        assert len(capsys.readouterr().err.splitlines()) == lines
        assert len(read_log(tmp_path / str(rank))) == lines
