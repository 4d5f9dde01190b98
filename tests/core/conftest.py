"""A tiny `.bitmar` file with every kind of tensor, and widths that leave padding in the last byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import write_container


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    tower = VisionTowerConfig(
        image_size=64,
        stem_channels=(5, 6),
        widths=(6, 10),
        depths=(1, 1),
        head_dim=2,
        mlp_ratio=3,
        out_dim=10,
    )
    return ModelConfig(
        vocab_size=20,
        hidden_size=12,
        encoder_layers=1,
        decoder_layers=1,
        num_heads=2,
        intermediate_size=18,
        vision_dim=10,
        vision_grid=2,
        vision_hidden=7,
        memory_slots=4,
        memory_dim=6,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        vision_tower=tower,
    )


@pytest.fixture(scope="session")
def tensors(config: ModelConfig, random_tensors: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Random tensors that fit `config`."""
    return random_tensors(config)


@pytest.fixture(scope="session")
def parts(config: ModelConfig) -> dict[str, Any]:
    """What `write_container` takes besides the tensors."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "é": 2}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    vision = {"size": 64, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3, "tower": "bitvit"}
    return {
        "config": config,
        "tokenizer_json": tokenizer.to_str(),
        "vision": vision,
        "card": {"licence": "none"},
    }


@pytest.fixture(scope="session")
def good_file(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray], parts: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("container") / "tiny.bitmar"
    write_container(path, tensors, **parts)
    return path
