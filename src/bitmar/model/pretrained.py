"""The base class of the models: initial weights, and which modules may be split or recomputed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from transformers import PreTrainedModel

from .blocks import Stack
from .configuration_bitmar import BitMarConfig
from .memory import EpisodicMemory
from .vision import initialise


class BitMarPreTrainedModel(PreTrainedModel):
    config_class = BitMarConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block", "ViTBlock"]  # noqa: RUF012
    _skip_keys_device_placement = ["cache", "past_key_values", "memory"]  # noqa: RUF012
    _supports_cache_class = True
    _keep_in_fp32_modules_strict = {"words", "class_concepts"}  # noqa: RUF012  (numbers of the concept bank)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        initialise(module)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, EpisodicMemory):
            nn.init.normal_(module.slots)
            if module.pooling is not None:
                nn.init.zeros_(module.pooling)
            if module.write_rule == "literal":
                nn.init.normal_(module.write_weights, std=len(module.slots) ** -0.5)
            else:
                nn.init.eye_(module.address)
        # What a checkpoint lacks is left uninitialised by transformers 5: scalars, too, get their value here.
        for name, value in getattr(module, "starts", {}).items():
            nn.init.constant_(getattr(module, name), value)

    def _set_gradient_checkpointing(self, enable: bool = True, *_: Any, **__: Any) -> None:
        for module in self.modules():
            if isinstance(module, Stack):
                module.gradient_checkpointing = enable
