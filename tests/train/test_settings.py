from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from bitmar.core.errors import ConfigError
from bitmar.train.settings import Training, from_mapping


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float = 0.5
    note: str | None = None
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[str, ...] = ()
    more: dict[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def test_builds_nested_dataclasses() -> None:
    made = from_mapping(Outer, {"name": "a", "rate": 3, "pair": [4, "5e-1"], "many": "x", "inner": {"size": 9}}, "top")
    assert made == Outer("a", 3.0, None, (4, 0.5), ("x",), {}, Inner(9))
    assert isinstance(made.rate, float)
    assert from_mapping(Outer, {"name": "a", "note": None, "inner": Inner(2)}, "top").inner.size == 2
    assert from_mapping(Inner, None, "top") == Inner()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"name": "a", "inner": {"sise": 9}}, "top: inner: unknown key 'sise' (did you mean 'size'?)"),
        ({"name": "a", 3: 4}, "top: unknown key 3"),
        ({}, "top: the key 'name' is missing"),
        ({"name": 3}, "top: name must be text, not 3"),
        ({"name": "a", "pair": 3}, "top: pair must be a list of 2, not 3"),
        ({"name": "a", "many": [1]}, "top: many must be text, not 1"),
        ({"name": "a", "more": []}, "top: more must be a mapping"),
        ({"name": "a", "rate": 10**400}, "top: rate must be a number, not 1000"),
        ({"name": "a", "inner": {"size": 1 << 31}}, "top: inner: size is too large: 2147483648"),
        ({"name": "a", "rate": 10**5000}, "top: rate must be a number, not a number of thousands of digits"),
        ([], "top: expected a mapping, found []"),
        ("", "top: expected a mapping, found ''"),
    ],
)
def test_says_where_and_what(values: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_mapping(Outer, values, "top")  # type: ignore[arg-type]
    assert message in str(error.value)


def test_the_defaults_are_the_papers() -> None:
    t = Training(steps=1)
    assert (t.learning_rate, t.schedule, t.t0, t.t_mult, t.eta_min) == (2e-4, "restarts", 1000, 2, 0.1)
    assert (t.optimizer, t.betas, t.weight_decay, t.clip) == ("adamw8bit", (0.9, 0.999), 0.02, 0.3)


def test_transformers_words(tmp_path) -> None:
    arguments = Training(steps=3, accumulation=2, gradient_checkpointing=True, precision="fp32").arguments(
        str(tmp_path)
    )
    assert (arguments.max_steps, arguments.gradient_accumulation_steps, arguments.max_grad_norm) == (3, 2, 0.3)
    assert getattr(arguments, "activation_checkpointing", arguments.gradient_checkpointing) is True
    assert not arguments.bf16 and not arguments.fp16 and arguments.report_to == []


@pytest.mark.parametrize("native", [True, False])
def test_bf16_is_taken_where_the_device_computes_it(tmp_path, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr("bitmar.train.settings.computes_bf16", lambda: native)
    arguments = Training(steps=1).arguments(str(tmp_path))
    assert arguments.bf16 is native and not arguments.fp16


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="here fp16 is possible")
def test_half_precision_needs_a_gpu(tmp_path) -> None:
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        Training(steps=1, precision="fp16").arguments(str(tmp_path))


def test_a_report_to_nobody(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"report_to: transformers knows no 'tensorbord' \(did you mean 'tensorboard'"
    ):
        Training(steps=1, precision="fp32", report_to=("tensorbord",)).arguments(str(tmp_path))


def test_betas_reach_the_optimizer(tmp_path) -> None:
    arguments = Training(steps=1, betas=(0.8, 0.95), precision="fp32").arguments(str(tmp_path))
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.8, 0.95)
