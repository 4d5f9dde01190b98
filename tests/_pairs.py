"""Tiny random models, each as a torch module and as the `.bitmar` file that the exporter makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bitmar.api import BitMar, load
from bitmar.core.ternary import quantize_rows

if TYPE_CHECKING:
    from bitmar.model.modeling_bitmar import BitMarForCausalLM

# Widths that leave padding in the last packed byte, an odd patch grid, a memory of another width than the
# text, segments shorter than the window, a window shorter than a text.
TINY: dict[str, Any] = {
    "vocab_size": 280,
    "hidden_size": 36,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_heads": 2,
    "intermediate_size": 50,
    "attention_sinks": 2,
    "attention_window": 7,
    "vision_dim": 14,
    "vision_grid": 3,
    "vision_pool": 2,
    "vision_hidden": 21,
    "memory_slots": 8,
    "memory_dim": 18,
    "memory_segment": 5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "memory_gate_init": 0.5,
}
# Towers by name; the second one's map has a side of 6.
TOWERS: dict[str, dict[str, Any]] = {
    "two stages": {
        "image_size": 96,
        "stem_channels": [6, 10],
        "stem_blocks": 1,
        "widths": [12, 20],
        "depths": [1, 2],
        "head_dim": 4,
        "mlp_ratio": 2,
        "out_dim": 14,
    },
    "one stage, gelu": {
        "image_size": 96,
        "stem_channels": [5, 7],
        "stem_blocks": 2,
        "bottlenecks": [6, 8],
        "widths": [9],
        "depths": [1],
        "head_dim": 3,
        "mlp_ratio": 3,
        "activation": "gelu",
        "out_dim": 14,
    },
}


class Pair(NamedTuple):
    """The same weights in both halves."""

    torch_model: BitMarForCausalLM
    bitmar: BitMar
    folder: Path

    def native(self, kernels: str = "") -> BitMar:
        """The file again, in the native engine with its widest integers."""
        pytest.importorskip("bitmar._native", reason="the native engine was not built")
        model = load(self.bitmar.path, engine=kernels or None)
        if model.engine.name != "numpy":
            model.engine.kv_int16 = True
        return model

    def image(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Patch features as both halves take them, with the batch axis that torch wants."""
        config = self.bitmar.config
        shape = (1, config.vision_grid**2, config.vision_dim)
        return {"vision_features": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Byte-level BPE of 276 entries: specials, bytes and a few merges."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=276,
        special_tokens=["<pad>", "<bos>", "<eos>", "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(["the dog runs over the green grass and the man runs"] * 4, trainer)
    return made


@pytest.fixture(scope="session")
def make_pair(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Iterator[Callable[..., Pair]]:
    """make_pair(name=value, ..., tower=name) -> a Pair of tiny random models, TINY with these changes; kept
    for the session.
    """
    torch = pytest.importorskip("torch", reason="the parity tests need torch")
    pytest.importorskip("transformers", reason="the parity tests need transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products are faster without a pool
    made: dict[str, Pair] = {}

    def make(**changes: Any) -> Pair:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = _build(tmp_path_factory.mktemp("pair"), tokenizer, dict(changes))
        return made[key]

    yield make
    torch.set_num_threads(threads)


def _build(folder: Path, tokenizer: Tokenizer, changes: dict[str, Any]) -> Pair:
    import torch

    from bitmar.export import export_checkpoint
    from bitmar.model.checkpoint import save_checkpoint
    from bitmar.model.configuration_bitmar import BitMarConfig
    from bitmar.model.modeling_bitmar import BitMarForCausalLM

    torch.manual_seed(0)
    tower = TOWERS.get(changes.pop("tower", ""))
    model = BitMarForCausalLM(BitMarConfig(**{**TINY, "vision_tower": tower, **changes})).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # statistics as after training, some factors negative
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.normal_(mean=0.5)
                module.bias.normal_(std=0.3)
            elif type(module).__name__ == "RMSNorm":
                module.weight.uniform_(0.5, 1.5)
        if changes.get("query_pooling") == "learned":
            model.model.memory.pooling.normal_(std=0.3)
        if model.model.concepts is not None:
            _fill(model.model.concepts, model.config)
        model.lm_head.weight *= 3  # far-apart logits: what is likeliest must not hang on the last bit
        # The file stores the embedding in int8: give torch the very same numbers.
        codes, scale = quantize_rows(model.model.embed_tokens.weight.numpy())
        model.model.embed_tokens.weight.copy_(torch.from_numpy(codes * scale))
    preprocessing = {
        "size": tower["image_size"] if tower else 64,
        "resize": "squash",
        "mean": [0.48, 0.45, 0.4],
        "std": [0.27, 0.26, 0.28],
    }
    save_checkpoint(folder, model, tokenizer.to_str(), preprocessing)
    return Pair(model, load(export_checkpoint(folder, folder / "model.bitmar"), engine="numpy"), folder)


def _fill(bank: Any, config: Any) -> None:
    """Random keys in int8, as the file has them, and words of one to three token ids."""
    import torch

    for rows in (bank.keys, bank.class_keys, bank.values):
        codes, scale = quantize_rows(torch.randn(rows.shape).numpy())
        rows.copy_(torch.from_numpy(codes * scale))
    bank.bias.normal_()
    bank.class_bias.normal_()
    bank.class_concepts.copy_(torch.arange(len(bank.class_concepts)) % (config.concepts + 1) - 1.0)
    for number, row in enumerate(bank.words):
        row[: number % 3 + 1] = torch.arange(4 + number, 5 + number + number % 3).float()
    bank.prior.normal_(mean=-2)
    bank.strength.normal_()
    bank.offset.normal_()
