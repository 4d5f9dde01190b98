from __future__ import annotations

import dataclasses
import itertools

import pytest

from bitmar.core.config import ModelConfig
from bitmar.core.tensors import expected_tensors, linear_shapes

COMBINATIONS = list(
    itertools.product(
        ("per_layer", "add", "concat", "off"),
        ("address", "literal"),
        ("mean", "learned"),
        (True, False),
        (12, 6),
    )
)


def test_the_paper_s_model_has_14_million_weights() -> None:
    config = ModelConfig()
    head = config.vocab_size * config.hidden_size
    ternary = sum(rows * columns for rows, columns in linear_shapes(config).values()) - head
    assert 1.7e6 < ternary < 2.2e6
    assert expected_tensors(config)["lm_head.weight"] == ("U8", (50257, 32))


def test_unquantised_models_keep_float_matrices_but_for_the_tower(config: ModelConfig) -> None:
    expected = expected_tensors(dataclasses.replace(config, quantization="none"))
    packed = [name for name, spec in expected.items() if spec.dtype == "U8"]
    assert packed and all(name.startswith("model.vision_tower.") for name in packed)
    assert expected["lm_head.weight"] == ("F32", (20, 12)) and "lm_head.scale" not in expected


@pytest.mark.parametrize(("integration", "rule", "pooling", "tower", "width"), COMBINATIONS)
def test_agrees_with_the_checkpoint(
    config: ModelConfig, integration: str, rule: str, pooling: str, tower: bool, width: int
) -> None:
    pytest.importorskip("torch")
    from bitmar.model.configuration_bitmar import BitMarConfig
    from bitmar.model.modeling_bitmar import BitMarForCausalLM

    config = dataclasses.replace(
        config,
        memory_integration=integration,
        write_rule=rule,
        query_pooling=pooling,
        memory_dim=width,
        vision_tower=config.vision_tower if tower else None,
    )
    state = BitMarForCausalLM(BitMarConfig(**config.to_dict())).state_dict()
    expected, linears = expected_tensors(config), linear_shapes(config)
    folded = (".running_mean", ".running_var", ".num_batches_tracked")
    kept = {name for name in state if name != "logit_scale" and not name.endswith(folded)}
    assert kept == {name for name in expected if not name.endswith(".scale")}
    for name in kept:
        shape = tuple(state[name].shape)
        if name in linears:
            assert (shape[0], state[name][0].numel()) == linears[name], name
        else:
            assert shape == expected[name].shape, name
