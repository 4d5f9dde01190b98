"""The models' outputs, the same under every version of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from .cache import BitMarCache
from .memory import MemoryState

# Version 5.24 renamed the field and the argument, and reads the old name of the field as the new one.
RENAMED = hasattr(ModelOutput, "past_key_values")
CACHE = "cache" if RENAMED else "past_key_values"  # the argument's name in generation


class CachedOutput(ModelOutput):
    """An output whose `cache` is also found as `past_key_values`, the name by which older versions ask for it."""

    cache: BitMarCache | None

    if not RENAMED:

        @property
        def past_key_values(self) -> BitMarCache | None:
            return self.cache

        @past_key_values.setter
        def past_key_values(self, value: BitMarCache) -> None:
            self.cache = value

        def __contains__(self, key: object) -> bool:
            return super().__contains__(_new_name(key))

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(_new_name(key))

        def get(self, key: Any, default: Any = None) -> Any:
            return super().get(_new_name(key), default)


def _new_name(key: Any) -> Any:
    return "cache" if key == "past_key_values" else key


@dataclass
class BitMarModelOutput(CachedOutput):
    """last_hidden_state (B, T, d); memory: the state afterwards; the rest serves losses and logs.

    hidden_states: the embeddings and every layer's output, encoder before decoder. attentions: (B, h, T, T_k) of every
    layer in the same order; cross_attentions: one of (B, h, T, N), of the fusion.
    """

    last_hidden_state: Tensor | None = None
    cache: BitMarCache | None = None
    memory: MemoryState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    text_pooled: Tensor | None = None
    vision_pooled: Tensor | None = None
    memory_change: Tensor | None = None
    read_weights: Tensor | None = None


@dataclass
class BitMarOutput(CachedOutput):
    """loss = lm_loss + 1.5 contrastive_loss + 0.1 memory_loss (eq. 4); logits (B, T, V) float32."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: BitMarCache | None = None
    memory: MemoryState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    lm_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    memory_loss: Tensor | None = None
    alignment: Tensor | None = None
    read_weights: Tensor | None = None
