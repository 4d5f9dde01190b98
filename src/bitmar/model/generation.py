"""The hooks of transformers' generation, for a cache that holds more than keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin, LogitsProcessorList
from transformers.generation.configuration_utils import GenerationMode

from .cache import BitMarCache, own_cache
from .concepts import ConceptEvidence
from .outputs import CACHE

_PICTURE = ("pixel_values", "vision_features", "concept_ids", "concept_scores", "image_mask")
_KEPT = (
    "write_memory",
    "read_memory",
    "logits_to_keep",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
)


class BitMarGenerationMixin(GenerationMixin):
    """`generate` with a `BitMarCache`, which is the model's `self.model.new_cache()`, and its concepts' evidence."""

    def generate(self, *args: Any, logits_processor: Any = None, **kwargs: Any) -> Any:
        """As everywhere in transformers; beside an image, what its concepts speak for is likelier until it is said."""
        evidence = self._evidence(kwargs)
        if evidence is not None:
            logits_processor = LogitsProcessorList([evidence, *(logits_processor or ())])
        return super().generate(*args, logits_processor=logits_processor, **kwargs)

    @torch.no_grad()
    def _evidence(self, inputs: dict[str, Any]) -> ConceptEvidence | None:
        bank = self.model.concepts
        if bank is None or not bank.weight:
            return None
        ids, scores = inputs.get("concept_ids"), inputs.get("concept_scores")
        if ids is None or scores is None:
            features, pixels = inputs.get("vision_features"), inputs.get("pixel_values")
            if features is None and pixels is not None and self.model.vision_tower is not None:
                features = self.model.vision_tower(pixels)
            if features is None:
                return None
            ids, scores = bank.find(features)
        return ConceptEvidence(*bank.evidence(ids, scores))

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], mode: Any = None, *_: Any, **__: Any
    ) -> None:
        cache = own_cache(model_kwargs.get("cache"), model_kwargs.pop("past_key_values", None))
        if not generation_config.use_cache:
            return
        if cache is None:
            cache = self.model.new_cache()
        # Before version 5 the assistant model itself stood in the place of `mode`.
        assisted = mode == GenerationMode.ASSISTED_GENERATION or isinstance(mode, PreTrainedModel)
        if assisted or generation_config.is_assistant or generation_config.prompt_lookup_num_tokens:
            cache.activate_past_recording()
        model_kwargs[CACHE] = cache

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        cache = own_cache(cache, past_key_values)
        seen = cache.get_seq_length() if cache is not None else 0
        inputs = {k: kwargs[k] for k in _KEPT if kwargs.get(k) is not None}
        if seen == 0:  # later steps find the picture and the memory in the cache
            inputs |= {k: kwargs[k] for k in (*_PICTURE, "memory") if kwargs.get(k) is not None}
        return {"input_ids": input_ids[:, seen:], "attention_mask": attention_mask, "cache": cache, **inputs}

    @staticmethod
    def _reorder_cache(cache: BitMarCache, beam_idx: Tensor) -> BitMarCache:
        cache.reorder_cache(beam_idx)
        return cache
