"""What transformers' generation asks of a model, answered for a cache that holds more than keys and values."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from .cache import BitMarCache, own_cache
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
    """`generate` with a `BitMarCache`; the model gives `self.model.new_cache()`."""

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, mode=None, *_, **__) -> None:
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
        self, input_ids, past_key_values=None, attention_mask=None, cache=None, **kwargs
    ) -> dict:
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
