"""The configuration and its torch-free twin say the same."""

from __future__ import annotations

import dataclasses
import inspect

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.vision import BitViTConfig


def test_names_and_defaults_equal_the_runtime_config() -> None:
    parameters = inspect.signature(BitMarConfig.__init__).parameters
    ours = {name: p.default for name, p in parameters.items() if name not in ("self", "kwargs")}
    assert ours == {field.name: field.default for field in dataclasses.fields(ModelConfig)}


def test_tower_names_and_defaults_equal_the_runtime_config() -> None:
    assert dataclasses.asdict(BitViTConfig()) == dataclasses.asdict(VisionTowerConfig())
    assert BitViTConfig().grid == VisionTowerConfig().grid


def test_a_saved_config_comes_back(tiny_config, tmp_path) -> None:
    tower = BitViTConfig(out_dim=12).to_dict()
    config = tiny_config(vision_tower=tower, memory_integration="concat", image_token_id=3)
    config.save_pretrained(tmp_path)
    loaded = BitMarConfig.from_pretrained(tmp_path)
    names = [field.name for field in dataclasses.fields(ModelConfig)]
    assert {n: getattr(loaded, n) for n in names} == {n: getattr(config, n) for n in names}


def test_what_transformers_asks_for(tiny_config) -> None:
    config = tiny_config()
    assert config.num_hidden_layers == 4 and config.num_attention_heads == 2
    assert config.tie_word_embeddings is False and config.is_encoder_decoder is False
