from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.errors import ConfigError

TOWER = {"image_size": 512, "out_dim": 768}


def test_defaults_are_the_paper() -> None:
    paper = ModelConfig()
    assert (paper.hidden_size, paper.encoder_layers, paper.decoder_layers, paper.num_heads) == (128, 4, 4, 4)
    assert (paper.attention_sinks, paper.attention_window) == (4, 1020)
    assert (paper.memory_slots, paper.memory_dim, paper.memory_alpha) == (512, 128, 0.2)
    assert (paper.vocab_size, paper.vision_dim, paper.vision_hidden) == (50257, 768, 384)


@pytest.mark.parametrize(("grid", "pool", "tokens"), [(16, 2, 64), (7, 2, 16), (7, 1, 49), (1, 1, 1)])
def test_odd_grids_pool_with_a_partial_window(grid: int, pool: int, tokens: int) -> None:
    assert ModelConfig(vision_grid=grid, vision_pool=pool).vision_tokens == tokens


@pytest.mark.parametrize("config", [ModelConfig(), ModelConfig.from_dict({"vision_tower": TOWER})])
def test_survives_json(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ModelConfig().hidden_size = 256  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hiden_size": 1}, "did you mean 'hidden_size'"),
        ({"hidden_size": "128"}, "must be int"),
        ({"encoder_layers": True}, "must be int"),
        ({"hidden_size": 0}, "between"),
        ({"encoder_layers": 10**9}, "between"),
        ({"hidden_size": 128.0}, "must be int"),
        ({"dropout": 1.5}, "between"),
        ({"dropout": float("nan")}, "between"),
        ({"rope_theta": 10**400}, "between"),
        ({"hidden_size": 10**5000}, "not a number of thousands of digits"),
        ({"activation": "relu"}, "did you mean 'relu2'"),
        ({"activation": None}, "must be str"),
        ({"num_heads": 3}, "multiple"),
        ({"hidden_size": 12, "num_heads": 4}, "even"),
        ({"vision_pool": 17}, "exceeds"),
        ({"bos_token_id": 50257}, "outside the vocabulary"),
        ({"image_token_id": 50257}, "outside the vocabulary"),
        ({"vision_tower": {**TOWER, "image_size": 256}}, "8x8"),
        ({"vision_tower": {**TOWER, "stem_chanels": [1]}}, "did you mean 'stem_channels'"),
        ({"vision_tower": {**TOWER, "stem_channels": [32, "64"]}}, "whole numbers"),
        ({"vision_tower": {**TOWER, "stem_channels": [32]}}, "two widths"),
        ({"vision_tower": {**TOWER, "image_size": 200}}, "multiple"),
        ({"vision_tower": {**TOWER, "widths": [192]}}, "depths"),
        ({"vision_tower": {**TOWER, "widths": [100, 384]}}, "head_dim"),
        ({"vision_tower": {**TOWER, "depths": [1, 10**9]}}, "between"),
        ({"vision_tower": 7}, "must be a vision tower"),
    ],
)
def test_refuses_and_says_why(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_refuses_what_is_no_mapping() -> None:
    with pytest.raises(ConfigError, match="mapping"):
        ModelConfig.from_dict([1])  # type: ignore[arg-type]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [field.name for cls in (ModelConfig, VisionTowerConfig) for field in dataclasses.fields(cls)]


@given(st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=4))
def test_no_input_raises_anything_else(values: dict[str, Any]) -> None:
    for cls in (ModelConfig, VisionTowerConfig):
        try:
            config = cls.from_dict(values)
        except ConfigError:
            continue
        assert cls.from_dict(config.to_dict()) == config


def test_the_checkpoint_s_configuration_has_the_same_names_and_defaults() -> None:
    pytest.importorskip("transformers")
    from bitmar.model.configuration_bitmar import BitMarConfig
    from bitmar.model.vision import BitViTConfig

    checkpoint = BitMarConfig()
    for name, value in ModelConfig().to_dict().items():
        assert getattr(checkpoint, name) == value, name
    assert BitViTConfig().to_dict() == VisionTowerConfig().to_dict()
