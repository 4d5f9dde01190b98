"""Other people's language models on the very same zero-shot tasks, through the harness' own `hf` model."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any

from bitmar.core.errors import BitMarError, DependencyError, pip_install


class Unreachable(BitMarError):
    """Neither the Hub nor this disk has the model."""


class Peer:
    """A causal language model of transformers. name: on the Hub, or a folder."""

    has_tower = False

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def lm(self) -> Any:
        """The harness' model, loaded. Raises Unreachable if it cannot be had, DependencyError."""
        try:
            import torch
            from lm_eval.models.huggingface import HFLM
        except ModuleNotFoundError as error:
            raise DependencyError(f"peers need {error.name}: {pip_install('eval,train')}") from error
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        try:
            return HFLM(pretrained=self.name, batch_size=8, device="cuda" if torch.cuda.is_available() else "cpu")
        except Exception as error:  # transformers, the Hub's client and a model's own code raise almost anything
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Unreachable(f"{self.name} cannot be had ({first})") from error
