"""Arguments of `forward`: what training alone says, and what it makes of those that transformers' models share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .configuration_bitmar import BitMarConfig


class Rows(NamedTuple):
    """Training's description of the rows of a batch. By default each is alone, and written by the write rule.

    episodes: N consecutive rows are one chain, each reading what those before it wrote. one_shot: every write fills a
    slot of its own, as a session's do, in place of the write rule. image_ids: (B,) equal for the same picture, for the
    contrastive loss. weights: (B,) factor of each row's cross-entropy, for self-critical training. evidence: the loss
    is of the logits that `generate` draws from, with what the given concepts speak for.
    """

    episodes: int = 1
    one_shot: bool = False
    image_ids: Tensor | None = None
    weights: Tensor | None = None
    evidence: bool = False


def asked(config: BitMarConfig, name: str, given: bool | None) -> bool:
    """An argument of `forward` that the configuration answers where the call does not."""
    return bool(getattr(config, name, name == "return_dict") if given is None else given)


def refuse_unknown(others: dict[str, Any]) -> None:
    """TypeError for an argument that means nothing here: silence would let a misspelt one change nothing."""
    harmless = ("cache_position", "token_type_ids", "num_items_in_batch")  # what transformers adds of itself
    unknown = [name for name, value in others.items() if value is not None and name not in harmless]
    if unknown:
        raise TypeError(f"BitMar's forward has no argument {', '.join(map(repr, unknown))}")


def check_positions(position_ids: Tensor, place: Tensor, valid: Tensor) -> None:
    if not torch.compiler.is_compiling() and bool(((position_ids != place) & valid).any()):
        raise ValueError(
            "position_ids differ from the places that attention_mask and the cache give: packed documents and other "
            "positions are not supported; leave the argument out"
        )
