"""Makes transformers' Auto classes know BitMar without remote code; call `register()` once, importing does nothing."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from .configuration_bitmar import BitMarConfig
from .image_processing_bitmar import BitMarImageProcessor
from .modeling_bitmar import BitMarForCausalLM, BitMarModel
from .processing_bitmar import BitMarProcessor


def register() -> None:
    """Registers configuration, models and processors; calling it again changes nothing."""
    AutoConfig.register(BitMarConfig.model_type, BitMarConfig, exist_ok=True)
    AutoModel.register(BitMarConfig, BitMarModel, exist_ok=True)
    AutoModelForCausalLM.register(BitMarConfig, BitMarForCausalLM, exist_ok=True)
    AutoModelForImageTextToText.register(BitMarConfig, BitMarForCausalLM, exist_ok=True)
    AutoImageProcessor.register(BitMarConfig, slow_image_processor_class=BitMarImageProcessor, exist_ok=True)
    AutoProcessor.register(BitMarConfig, BitMarProcessor, exist_ok=True)
