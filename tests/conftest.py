"""Fixtures that several folders share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from bitmar.cli import app
from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import write_container
from bitmar.core.tensors import expected_tensors, linear_shapes
from bitmar.core.ternary import pack2

from ._pairs import Pair, make_pair, tokenizer

__all__ = ["Pair", "make_pair", "tokenizer"]  # fixtures, a tiny random model in both halves

# A machine that trains at the same time is slow; slowness is no failure.
settings.register_profile("bitmar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bitmar")

CARD = {"licence": "research only", "training_data": ["two shards", "a book"], "command": "bitmar train it.yaml"}

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; a lone clone has none, and the test is skipped."""
    if not _SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the repository: this test needs the real data")
    return _SHARED_DATA


@pytest.fixture(scope="session")
def random_tensors() -> Callable[..., dict[str, np.ndarray]]:
    """random_tensors(config, seed=0) -> what a `.bitmar` file of this configuration may hold."""

    def make(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
        rng, columns = np.random.default_rng(seed), {name: shape[1] for name, shape in linear_shapes(config).items()}
        made: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in expected_tensors(config).items():
            if dtype == "U8":
                made[name] = pack2(rng.integers(-1, 2, (shape[0], columns[name]), dtype=np.int8))
            elif dtype == "I8":
                made[name] = rng.integers(-127, 128, shape, dtype=np.int8)
            else:
                made[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32).reshape(shape)
        return made

    return make


@pytest.fixture(scope="session")
def make_model(random_tensors: Callable[..., dict[str, np.ndarray]]) -> Callable[..., Path]:
    """make_model(path, tower=True, seed=0) -> path: a random model of 260 tokens; without a tower it takes 2x2 patches
    of 10."""

    def make(path: Path, *, tower: bool = True, seed: int = 0) -> Path:
        vision = VisionTowerConfig(
            image_size=64, stem_channels=(5, 6), widths=(6, 10), depths=(1, 1), head_dim=2, mlp_ratio=2, out_dim=10
        )
        config = ModelConfig(
            vocab_size=260,
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
            vision_tower=vision if tower else None,
        )
        characters = ["<pad>", "<bos>", "<eos>", "<image>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(characters)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        pixels = {"size": 64, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}
        vision_card = {**pixels, "tower": "bitvit" if tower else "features"}
        write_container(
            path,
            random_tensors(config, seed),
            config=config,
            tokenizer_json=tokenizer.to_str(),
            vision=vision_card,
            card=CARD,
        )
        return path

    return make


@pytest.fixture(scope="session")
def card() -> dict[str, Any]:
    """The card of these models."""
    return CARD


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Path]) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny.bitmar")


def _jpeg(colour: str = "green", size: tuple[int, int] = (40, 30)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, colour).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """jpeg(colour, size) -> a file of one colour."""
    return _jpeg


@pytest.fixture
def cli() -> Callable[..., Any]:
    """cli("caption", path, ...) -> the result, with exit_code, stdout and stderr. A fault of ours is raised."""

    def run(*arguments: Any) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run
