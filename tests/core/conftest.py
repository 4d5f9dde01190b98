"""A tiny `.bitmar` file with every kind of tensor, and widths that leave padding in the last byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import write_container
from bitmar.core.tensors import expected_tensors, linear_shapes
from bitmar.core.ternary import pack2


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
def tensors(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random tensors that fit `config`."""
    rng = np.random.default_rng(0)
    columns = {name: shape[1] for name, shape in linear_shapes(config).items()}
    made: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in expected_tensors(config).items():
        if dtype == "U8":
            made[name] = pack2(rng.integers(-1, 2, (shape[0], columns[name]), dtype=np.int8))
        elif dtype == "I8":
            made[name] = rng.integers(-127, 128, shape, dtype=np.int8)
        else:
            made[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32).reshape(shape)
    return made


@pytest.fixture(scope="session")
def parts(config: ModelConfig) -> dict[str, Any]:
    """What `write_container` takes besides the tensors."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "é": 2}, merges=[]))
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
