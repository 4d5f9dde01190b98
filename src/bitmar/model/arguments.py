"""What `forward` makes of arguments that transformers' models share."""

from __future__ import annotations

import torch
from torch import Tensor

from .configuration_bitmar import BitMarConfig


def asked(config: BitMarConfig, name: str, given: bool | None) -> bool:
    """An argument of `forward` that the configuration answers where the call does not."""
    return bool(getattr(config, name, name == "return_dict") if given is None else given)


def refuse_unknown(others: dict) -> None:
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
