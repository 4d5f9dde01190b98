"""A tiny model to fine-tune, which has learned nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bitmar.data.tokenizer import train_bpe
from bitmar.model.checkpoint import save_checkpoint
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM
from bitmar.train.tasks import own_task

WORDS = ["the", "dog", "runs", "over", "grass", "and", "a", "man", "sits"]


TASK = own_task("mood", ["text"])


TINY: dict[str, Any] = {
    "vocab_size": 280,
    "hidden_size": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_heads": 2,
    "intermediate_size": 40,
    "dropout": 0.1,
    "vision_dim": 14,
    "vision_grid": 2,
    "vision_hidden": 8,
    "memory_slots": 8,
    "memory_dim": 16,
    "memory_segment": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vision_tower": {"image_size": 64, "stem_channels": [4, 6], "widths": [6, 10], "depths": [1, 1], "head_dim": 2,
                     "mlp_ratio": 2, "out_dim": 14, "stem_blocks": 1, "bottlenecks": [4, 6, 8]},
}  # fmt: skip


def save_tiny(folder: Path) -> Path:
    """Its checkpoint, in this folder."""
    torch.manual_seed(0)
    tokenizer = train_bpe([" ".join(WORDS)] * 4, 276)
    preprocessing = {"size": 64, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}
    return save_checkpoint(folder, BitMarForCausalLM(BitMarConfig(**TINY)), tokenizer.to_str(), preprocessing)
