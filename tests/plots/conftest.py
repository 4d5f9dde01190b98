"""A tiny random model of each half's file format, and a training run made of nothing but its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bitmar.api import BitMar, load
from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import write_container
from bitmar.core.tensors import expected_tensors, linear_shapes

CONFIG = ModelConfig(
    vocab_size=260,
    hidden_size=12,
    encoder_layers=1,
    decoder_layers=2,
    num_heads=2,
    intermediate_size=18,
    vision_dim=10,
    vision_grid=2,
    vision_pool=1,
    vision_hidden=7,
    memory_slots=5,
    memory_dim=6,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
    vision_tower=VisionTowerConfig(
        image_size=64, stem_channels=(5, 6), widths=(6, 10), depths=(1, 1), head_dim=2, mlp_ratio=2, out_dim=10
    ),
)


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    characters = ["<pad>", "<bos>", "<eos>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(characters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def make_model(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer_json: str,
    random_tensors: Callable[..., dict[str, np.ndarray]],
) -> Callable[..., BitMar]:
    """make_model(config) -> a model of these random weights, on numpy."""

    def make(config: ModelConfig = CONFIG) -> BitMar:
        path = tmp_path_factory.mktemp("model") / "tiny.bitmar"
        vision = {"size": 64, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3, "tower": "bitvit"}
        vision["tower"] = "bitvit" if config.vision_tower else "features"
        write_container(
            path, random_tensors(config), config=config, tokenizer_json=tokenizer_json, vision=vision, card={}
        )
        return load(path, engine="numpy")

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., BitMar]) -> BitMar:
    return make_model()


@pytest.fixture
def picture() -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((80, 60))


@pytest.fixture
def run(tmp_path: Path, tokenizer_json: str) -> Path:
    """Two finished stages, `first` with two checkpoints and `second` with its result alone, and an abandoned one."""
    folder = tmp_path / "run"
    bare = ModelConfig.from_dict({**CONFIG.to_dict(), "vision_tower": None})
    for place, (stage, steps) in enumerate((("first", (10, 20)), ("second", ()), ("tried", (7,)))):
        for step in steps:
            _checkpoint(folder / stage / f"checkpoint-{step}", bare, tokenizer_json, seed=step)
        if stage != "tried":
            _checkpoint(folder / stage, bare, tokenizer_json, seed=30)
            (folder / stage / "finished.json").write_text("{}")
        lines = [
            {"step": step, "loss": 1.0, "zero_fraction": 0.31 + step / 1000, "live_slots": 1 - step / 100}
            for step in (5, 10, 20)
        ]
        lines.append({"step": 20, "train_runtime": 1.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / stage / "log.jsonl").write_text(text + '{"step": 25, "zero_fr')  # still being written
        noted = {
            name.removesuffix(".weight"): {"initial": 0.3, "now": 0.3 + place / 10} for name in linear_shapes(bare)
        }
        (folder / stage / "zero_fraction.json").write_text(json.dumps({"step": 20, "layers": noted}))
    return folder


def _checkpoint(folder: Path, config: ModelConfig, tokenizer_json: str, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng, shapes = np.random.default_rng(seed), linear_shapes(config)
    tensors = {
        name: rng.standard_normal(shapes.get(name, shape)).astype(np.float32)
        for name, (_, shape) in expected_tensors(config).items()
        if not name.endswith(".scale")
    }
    save_file({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}, folder / "model.safetensors")
    values: dict[str, Any] = {"model_type": "bitmar", **config.to_dict()}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text(tokenizer_json)
    photo = {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(photo))
