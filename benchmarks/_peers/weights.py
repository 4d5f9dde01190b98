"""Random float weights of a plain causal network with the dimensions of BitMar's text path.

Encoder and decoder become one stack of pre-norm blocks (RMSNorm, rotary attention, an FFN of two matrices) with an
untied head; neither picture nor memory, which only bitmar itself has to compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from bitmar.core.config import ModelConfig

F32 = npt.NDArray[np.float32]


def layers(config: ModelConfig) -> int:
    """Causal blocks a token passes."""
    return config.encoder_layers + config.decoder_layers


def random_weights(config: ModelConfig) -> Iterator[tuple[str, F32]]:
    """Name and weight, matrices as (out, in): `embed`, `0.attn_norm`, `0.qkv`, ..., `norm`, `head`."""
    rng, d, wide = np.random.default_rng(0), config.hidden_size, config.intermediate_size

    def matrix(rows: int, columns: int) -> F32:
        return rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)

    yield "embed", rng.standard_normal((config.vocab_size, d), np.float32)
    shapes: dict[str, Callable[[], F32]] = {
        "attn_norm": lambda: np.ones(d, np.float32),
        "qkv": lambda: matrix(3 * d, d),
        "o": lambda: matrix(d, d),
        "mlp_norm": lambda: np.ones(d, np.float32),
        "up": lambda: matrix(wide, d),
        "down": lambda: matrix(d, wide),
    }
    for layer in range(layers(config)):
        for name, make in shapes.items():
            yield f"{layer}.{name}", make()
    yield "norm", np.ones(d, np.float32)
    yield "head", matrix(config.vocab_size, d)


def rotary_tables(config: ModelConfig, capacity: int) -> tuple[F32, F32]:
    """Cosine and sine (capacity, head_dim / 2) of RoPE (arXiv 2104.09864)."""
    inverse = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    angles = np.arange(capacity)[:, None] * inverse
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
