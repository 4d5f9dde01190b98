"""A BitMar small enough that a test is a fraction of a second, and inputs for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import dynamic_module_utils

from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM

# Every odd corner at once: memory_dim != hidden_size, an odd patch grid, segments shorter than the window, a window
# shorter than a sequence.
TINY: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_heads": 2,
    "intermediate_size": 48,
    "attention_sinks": 2,
    "attention_window": 6,
    "vision_dim": 12,
    "vision_grid": 3,
    "vision_pool": 2,
    "vision_hidden": 20,
    "memory_slots": 8,
    "memory_dim": 16,
    "memory_segment": 5,
    "memory_decay": 0.8,  # with eight slots each is touched too often for the default to be felt
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

TOWER: dict[str, Any] = {
    "image_size": 48,
    "stem_channels": [4, 4],
    "stem_blocks": 0,
    "bottlenecks": [6, 7],
    "widths": [8],
    "depths": [1],
    "head_dim": 4,
    "out_dim": 12,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are faster without a pool, and the seed alone decides the result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Code that is loaded from a checkpoint lands in a temporary folder, not in the user's cache; in one, because the
    package that holds it is imported once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
            patch.delitem(sys.modules, name)  # of another folder's tests
        # Another folder's tests may have put the user's cache on the path, where a package of this name is found first.
        patch.setattr(sys, "path", [p for p in sys.path if not Path(p, "transformers_modules").is_dir()])
        yield


@pytest.fixture
def tiny_config() -> Callable[..., BitMarConfig]:
    """tiny_config(name=value, ...) -> a BitMarConfig."""
    return lambda **changes: BitMarConfig(**{**TINY, **changes})


@pytest.fixture
def tiny_model(tiny_config: Callable[..., BitMarConfig]) -> Callable[..., BitMarForCausalLM]:
    """tiny_model(name=value, ...) -> a model in evaluation mode; its memory is loud enough to be heard in a test."""

    def make(**changes: Any) -> BitMarForCausalLM:
        torch.manual_seed(0)
        return BitMarForCausalLM(tiny_config(memory_gate_init=0.5, **changes)).eval()

    return make


@pytest.fixture
def tower_config() -> dict[str, Any]:
    """A built-in tower whose features fit `tiny_config`."""
    return dict(TOWER)


@pytest.fixture
def inputs() -> Callable[..., dict[str, Tensor]]:
    """inputs(batch, length, seed) -> input_ids (no specials) and vision_features, a picture for every sequence."""

    def make(batch: int = 2, length: int = 20, seed: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "input_ids": torch.randint(3, TINY["vocab_size"], (batch, length), generator=generator),
            "vision_features": torch.randn(batch, TINY["vision_grid"] ** 2, TINY["vision_dim"], generator=generator),
        }

    return make


@pytest.fixture
def assert_agree() -> Callable[[Tensor, Tensor], None]:
    """Equality of logits (..., T, V) that were summed in another order.

    A scaled activation that lies on a tie of int8 rounding may fall to either side; such a token moves in the third
    decimal, and there are few of them. A fault moves many, or far.
    """

    def check(a: Tensor, b: Tensor) -> None:
        difference = (a - b).abs().amax(-1)
        assert difference.max() < 0.1, difference
        assert (difference < 1e-4).float().mean() > 0.9, difference

    return check


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    """A byte-level BPE of 300 entries; its specials are ids 0 to 3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    sentences = ["a dog runs over the green grass", "two children play on the beach near the water"]
    tokenizer.train_from_iterator(sentences * 2, trainer)
    assert tokenizer.get_vocab_size() == 300
    return tokenizer.to_str()


@pytest.fixture
def checkpoint_folder(tiny_model: Callable[..., BitMarForCausalLM], tokenizer_json: str, tmp_path: Path) -> Path:
    """A self-contained checkpoint with a built-in tower."""
    from bitmar.model.checkpoint import save_checkpoint

    model = tiny_model(vocab_size=300, image_token_id=3, vision_tower=TOWER)
    vision = {
        "size": 48,
        "resize": "squash",
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.3, 0.25],
        "tower": "bitvit",
    }
    return save_checkpoint(tmp_path / "checkpoint", model, tokenizer_json, vision)
