"""A `.bitmar` file with random weights: speed and memory are those of a trained model of the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bitmar.core.config import ModelConfig
from bitmar.core.container import write_container
from bitmar.core.tensors import EMBEDDING, expected_tensors, linear_shapes, scale_name
from bitmar.core.ternary import pack2


def random_model(path: str | Path, seed: int = 0, **config: Any) -> Path:
    """Write a random model to `path` and return it.

    config: as in `ModelConfig`, whose defaults are bitmar-14m. Raises ConfigError for an unknown key.
    """
    made = ModelConfig.from_dict(config)
    size = made.vision_tower.image_size if made.vision_tower else 224
    write_container(
        path,
        _tensors(made, np.random.default_rng(seed)),
        config=made,
        tokenizer_json=_tokenizer(made.vocab_size).to_str(),
        vision={
            "size": size,
            "resize": "squash",
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "tower": "bitvit" if made.vision_tower else "features",
        },
        card={"name": "random weights, for measuring", "licence": "none"},
    )
    return Path(path)


def _tensors(config: ModelConfig, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Scaled so that activations neither vanish nor overflow on their way through the layers."""
    columns = {name: shape[1] for name, shape in linear_shapes(config).items()}
    scales = {scale_name(name): (1.5 / width) ** 0.5 for name, width in columns.items()}  # 2/3 of the codes are +-1
    scales[scale_name(EMBEDDING)] = 1 / 127
    made: dict[str, npt.NDArray[Any]] = {}
    for name, (dtype, shape) in expected_tensors(config).items():
        if dtype == "U8":
            made[name] = pack2(rng.integers(-1, 2, (shape[0], columns[name]), dtype=np.int8))
        elif dtype == "I8":
            made[name] = rng.integers(-127, 128, shape, dtype=np.int8)
        elif name in scales:
            made[name] = np.full(shape, scales[name], np.float32)
        elif len(shape) == 2:
            made[name] = (rng.standard_normal(shape) / shape[1] ** 0.5).astype(np.float32)
        else:  # norms, gates, temperatures; an array even where the shape is ()
            made[name] = np.asarray(rng.uniform(0.5, 1.0, shape), np.float32)
    return made


def _tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, then entries that no text contains: every id that the network chooses has a name."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:vocab_size]
    names = [*alphabet, *(f"<{i}>" for i in range(len(alphabet), vocab_size))]
    made = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made
