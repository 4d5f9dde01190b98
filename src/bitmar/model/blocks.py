"""The causal blocks of both stacks."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.utils.checkpoint
from torch import Tensor

from .attention import Positions, SelfAttention
from .bitlinear import BitLinear, RMSNorm, activation
from .cache import BitMarCache
from .configuration_bitmar import BitMarConfig


class MLP(nn.Module):
    def __init__(self, config: BitMarConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up_proj = BitLinear(config.hidden_size, config.intermediate_size, config.quantization)
        self.down_proj = BitLinear(config.intermediate_size, config.hidden_size, config.quantization)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(activation(self.activation, self.up_proj(x)))


class Block(nn.Module):
    """Pre-norm causal block. In the decoder it first adds g_l W_l r, its share of what the memory said."""

    def __init__(self, config: BitMarConfig, conditioned: bool = False) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = SelfAttention(config.hidden_size, config.num_heads, config.quantization)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)
        if conditioned:
            self.memory_proj = BitLinear(config.memory_dim, config.hidden_size, config.quantization)
            self.memory_gate = nn.Parameter(torch.tensor(config.memory_gate_init))
            self.starts = {"memory_gate": config.memory_gate_init}

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        memory: Tensor | None = None,
        cache: BitMarCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        if memory is not None:
            x = x + self.memory_gate * self.memory_proj(memory)
        x = x + self.attn(self.attn_norm(x), positions, cache, layer)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nn.Module):
    """Causal blocks and a final norm; `first_layer` is where its keys begin in the cache."""

    def __init__(self, config: BitMarConfig, layers: int, first_layer: int, conditioned: bool = False) -> None:
        super().__init__()
        self.first_layer = first_layer
        self.layers = nn.ModuleList(Block(config, conditioned) for _ in range(layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        memory: Tensor | None = None,
        cache: BitMarCache | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        for i, block in enumerate(self.layers):
            if self.gradient_checkpointing and self.training and cache is None:
                x = torch.utils.checkpoint.checkpoint(block, x, positions, memory, use_reentrant=False)
            else:
                x = block(x, positions, memory, cache, self.first_layer + i)
            if states is not None:
                states.append(x)
        return self.norm(x)
