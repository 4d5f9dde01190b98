"""A tiny random model as a checkpoint and as a `.bitmar` file, and shards of made-up photos."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from bitmar.core.ternary import quantize_rows
from bitmar.data.tokenizer import train_bpe

TINY: dict[str, Any] = {
    "vocab_size": 280,
    "hidden_size": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_heads": 2,
    "intermediate_size": 40,
    "attention_sinks": 2,
    "attention_window": 30,
    "vision_dim": 14,
    "vision_grid": 3,
    "vision_hidden": 20,
    "memory_slots": 8,
    "memory_dim": 16,
    "memory_segment": 5,
    "memory_gate_init": 0.5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vision_tower": {
        "image_size": 96,
        "stem_channels": [6, 10],
        "stem_blocks": 1,
        "bottlenecks": [8, 12, 10],
        "widths": [12, 20],
        "depths": [1, 1],
        "head_dim": 4,
        "mlp_ratio": 2,
        "out_dim": 14,
    },
}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(["the dog runs over the green grass and the man runs"] * 4, 276)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Path]:
    """A checkpoint with a tower, and beside it `packed/model.bitmar` of the same weights."""
    torch = pytest.importorskip("torch", reason="checkpoints need torch")
    pytest.importorskip("transformers", reason="checkpoints need transformers")
    from bitmar.export import export_checkpoint
    from bitmar.model.checkpoint import save_checkpoint
    from bitmar.model.configuration_bitmar import BitMarConfig
    from bitmar.model.modeling_bitmar import BitMarForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = BitMarForCausalLM(BitMarConfig(**TINY)).eval()
    with torch.no_grad():
        model.lm_head.weight *= 3  # far-apart logits: what is likeliest must not hang on the last bit
        codes, scale = quantize_rows(model.model.embed_tokens.weight.numpy())  # as the file will have it
        model.model.embed_tokens.weight.copy_(torch.from_numpy(codes * scale))
    path = tmp_path_factory.mktemp("checkpoint")
    preprocessing = {"size": 96, "resize": "squash", "mean": [0.48, 0.45, 0.4], "std": [0.27, 0.26, 0.28]}
    save_checkpoint(path, model, tokenizer.to_str(), preprocessing)
    (path / "packed").mkdir()
    export_checkpoint(path, path / "packed" / "model.bitmar")
    yield path
    torch.set_num_threads(threads)


@pytest.fixture
def photo() -> Callable[[int], Image.Image]:
    """photo(seed) -> an RGB image of random blocks."""

    def make(seed: int = 0) -> Image.Image:
        blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        return Image.fromarray(blocks).resize((120, 90))

    return make


@pytest.fixture
def shard(tmp_path: Path, photo: Callable[[int], Image.Image]) -> Callable[..., Path]:
    """shard(count, broken=()) -> a tar of photos "000", "001", ... with two captions each, some of them no JPEG."""

    def make(count: int, broken: tuple[int, ...] = (), name: str = "photos-00000.tar") -> Path:
        with tarfile.open(tmp_path / name, "w") as tar:
            for i in range(count):
                file = io.BytesIO()
                photo(i).save(file, "JPEG")
                _add(tar, f"{i:03d}.jpg", b"no photo" if i in broken else file.getvalue())
                _add(tar, f"{i:03d}.json", json.dumps({"captions": [f"Photo {i}.", "The dog runs."]}).encode())
        return tmp_path / name

    return make


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
