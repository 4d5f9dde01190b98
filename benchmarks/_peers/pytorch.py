"""The network in eager PyTorch with a preallocated KV cache: float32, bfloat16, or dynamic int8 linear layers."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from _peers import Ids
from _peers.weights import layers, random_weights, rotary_tables
from bitmar.core.config import ModelConfig


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, wide = config.hidden_size, config.intermediate_size
        self.heads, self.gelu = config.num_heads, config.activation == "gelu"
        self.attn_norm = nn.RMSNorm(d, config.norm_eps)
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.o = nn.Linear(d, d, bias=False)
        self.mlp_norm = nn.RMSNorm(d, config.norm_eps)
        self.up = nn.Linear(d, wide, bias=False)
        self.down = nn.Linear(wide, d, bias=False)

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, start: int) -> Tensor:
        end = start + x.shape[0]
        q, k, v = self.qkv(self.attn_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # (h, T, d_h)
        keys[:, start:end], values[:, start:end] = rotate(k, *tables), v
        q = rotate(q, *tables)
        out = F.scaled_dot_product_attention(q[None], keys[None, :, :end], values[None, :, :end], is_causal=len(x) > 1)
        x = x + self.o(out[0].transpose(0, 1).flatten(1))
        wide = self.up(self.mlp_norm(x))
        return x + self.down(F.gelu(wide) if self.gelu else F.relu(wide).square())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE over (h, T, d_h), half-split, by tables (T, d_h)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Plain(nn.Module):
    """Token ids (T,) after `start` cached ones -> the likeliest next token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(layers(config)))
        self.norm = nn.RMSNorm(config.hidden_size, config.norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids: Tensor, tables: tuple[Tensor, Tensor], cache: Tensor, start: int) -> int:
        """tables: cosine and sine of all positions (capacity, d_h); cache: (L, 2, h, capacity, d_h)."""
        here = (tables[0][start : start + len(ids)], tables[1][start : start + len(ids)])
        x = self.embed(ids)
        for block, (keys, values) in zip(self.layers, cache, strict=True):
            x = block(x, here, keys, values, start)
        return int(self.head(self.norm(x[-1:])).argmax())


class Torch:
    detail = ""

    def __init__(self, network: Plain, config: ModelConfig, capacity: int) -> None:
        self.network, self.length = network, 0
        dtype = network.embed.weight.dtype
        cos, sin = (torch.from_numpy(x).to(dtype).repeat(1, 2) for x in rotary_tables(config, capacity))
        self.tables = (cos, sin)
        self.cache = torch.zeros(layers(config), 2, config.num_heads, capacity, config.head_dim, dtype=dtype)

    def prefill(self, ids: Ids) -> int:
        self.length = 0
        return self._forward(torch.from_numpy(ids))

    def decode(self, token: int, count: int) -> list[int]:
        tokens = []
        for _ in range(count):
            token = self._forward(torch.tensor([token]))
            tokens.append(token)
        return tokens

    @torch.inference_mode()
    def _forward(self, ids: Tensor) -> int:
        token = self.network(ids, self.tables, self.cache, self.length)
        self.length += len(ids)
        return token


def build(config: ModelConfig, kind: str, folder: Path, capacity: int) -> Path:
    with torch.device("meta"):
        network = Plain(config)
    state = {
        (f"{name}.weight" if name in ("embed", "norm", "head") else f"layers.{name}.weight"): torch.from_numpy(weight)
        for name, weight in random_weights(config)
    }
    network.load_state_dict(state, assign=True)
    if kind == "bf16":
        network.bfloat16()
    elif kind == "int8":
        # Imported here: PyTorch has announced its removal, and the float contenders do not need it.
        from torch.ao.quantization import quantize_dynamic

        network = quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    path = folder / f"torch-{kind}.pt"
    torch.save(network, path)  # whole: a quantised module cannot be made without its float original
    return path


def load(path: Path, config: ModelConfig, kind: str, capacity: int) -> Torch:
    torch.set_num_threads(1)
    network = torch.load(path, weights_only=False)  # our own file, written a moment ago
    return Torch(network.eval(), config, capacity)
