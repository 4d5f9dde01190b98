"""BitMar (arXiv 2510.10560): two causal ternary stacks, a picture between them, an episodic memory beside.

    tokens -> embedding -> encoder -> z -> fusion with the picture -> f ----> x + f -> decoder -> head -> logits
                                                                    |                    ^ every layer
                                                                    +-> running mean q -> memory read r

Everything is causal in the text: the logits at t depend on tokens <= t, on the picture, and on the memory as it was
before this segment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .arguments import Rows, asked, check_positions, refuse_unknown
from .attention import Fusion, Positions
from .bitlinear import BitLinear
from .blocks import Stack
from .cache import BitMarCache, own_cache
from .concepts import ConceptBank
from .configuration_bitmar import BitMarConfig
from .episodes import remember
from .generation import BitMarGenerationMixin
from .losses import contrastive_loss, language_modelling_loss
from .memory import EpisodicMemory, MemoryState
from .outputs import BitMarModelOutput, BitMarOutput
from .padding import valid_tokens
from .pretrained import BitMarPreTrainedModel
from .vision import BitViT, BitViTConfig, VisionProjector


class BitMarModel(BitMarPreTrainedModel):
    """BitMar without the head: hidden states (B, T, d)."""

    _auto_class = "AutoModel"

    def __init__(self, config: BitMarConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = Stack(config, config.encoder_layers, first_layer=0)
        self.vision_tower = BitViT(BitViTConfig.from_dict(config.vision_tower)) if config.vision_tower else None
        self.vision = VisionProjector(config)
        self.concepts = ConceptBank(config) if config.concepts else None
        self.fusion = Fusion(config.hidden_size, config.num_heads, config.quantization, config.norm_eps)
        integration = config.memory_integration
        if integration != "off":
            self.memory = EpisodicMemory(config)
        if integration in ("add", "concat"):
            width = config.memory_dim + (config.hidden_size if integration == "concat" else 0)
            self.memory_proj = BitLinear(width, config.hidden_size, config.quantization)
        self.decoder = Stack(config, config.decoder_layers, config.encoder_layers, integration == "per_layer")
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embed_tokens = value

    def new_cache(self) -> BitMarCache:
        c = self.config
        return BitMarCache(c.encoder_layers + c.decoder_layers, c.attention_sinks, c.attention_window)

    def encode_image(
        self,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        concepts: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | None:
        """Pixels (B, 3, S, S) or patch features (B, N_p, D_v) -> vision tokens (B, N, d); None without a picture.

        With a concept bank its tokens follow those of the patches; `concepts` as in `forward`.
        """
        if vision_features is None:
            if pixel_values is None:
                return None if concepts is None or self.concepts is None else self.concepts(*concepts)
            if self.vision_tower is None:
                raise ValueError("this model has no built-in vision tower: pass vision_features of its teacher instead")
            vision_features = self.vision_tower(pixel_values)
        tokens = self.vision(vision_features)
        if self.concepts is None:
            return tokens
        found = self.concepts(*(self.concepts.find(vision_features) if concepts is None else concepts))
        return torch.cat((tokens, found.to(tokens.dtype)), dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        concept_ids: Tensor | None = None,
        concept_scores: Tensor | None = None,
        image_mask: Tensor | None = None,
        past_key_values: BitMarCache | None = None,
        cache: BitMarCache | None = None,
        memory: MemoryState | None = None,
        write_memory: bool | None = None,
        read_memory: bool = True,
        rows: Rows | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        **others: Any,
    ) -> BitMarModelOutput | tuple[Any, ...]:
        """Runs the model.

        Args:
            input_ids: (B, T). attention_mask: (B, T) or, with a cache, (B, T_past + T); 0 on padding, either side.
                Masks with a row per query, (B, T, T) and (B, 1, T, T), may say the same (see `padding.py`).
            pixel_values: (B, 3, S, S) for the built-in tower, or vision_features: (B, N_p, D_v).
            concept_ids, concept_scores: (B, k) in place of those that the concept bank finds; without features they are
                all that is seen.
            image_mask: (B,) bool, False for sequences without a picture (there f = z); a cache remembers it.
            cache: a `new_cache()` or what an earlier call returned; `past_key_values` is its name in older versions.
            memory: state to start from (M_0 when None). write_memory: write at segment ends; by default in training.
            read_memory: False ablates the read with everything else unchanged.
            rows: chains of episodes, in training (`Rows`).
            position_ids: (B, T), only to be checked: positions follow from the mask and the cache.
        """
        config, rows = self.config, rows or Rows()
        refuse_unknown(others)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, d)
        x = x.float()  # whatever the weights are: the residual stream is in float32
        length = x.shape[1]
        cache = own_cache(cache, past_key_values)
        if cache is None and use_cache:
            cache = self.new_cache()
        if cache is not None and rows.episodes > 1:
            raise ValueError("chains of episodes are for training, where there is no cache")
        write = self.training if write_memory is None else write_memory

        valid, place, positions = self._positions(x, attention_mask, cache)
        if position_ids is not None:
            check_positions(position_ids, place, valid)
        states: list[Tensor] | None = [x] if asked(config, "output_hidden_states", output_hidden_states) else None
        cross: list[Tensor] | None = None
        if asked(config, "output_attentions", output_attentions):
            positions.attentions, cross = [], []
        z = self.encoder(self.dropout(x), positions, cache=cache, states=states)

        concepts = None if concept_ids is None or concept_scores is None else (concept_ids, concept_scores)
        f, vision = self._fuse(z, pixel_values, vision_features, concepts, image_mask, cache, cross)

        retrieved = weights = change = state = None
        if config.memory_integration != "off":
            retrieved, weights, state, change = remember(self.memory, f, valid, cache, memory, write, rows)
            if not read_memory:
                retrieved = torch.zeros_like(retrieved)
            retrieved = self.memory.read_norm(retrieved)

        h = x + self.dropout(f)
        if config.memory_integration == "add":
            h = h + self.memory_proj(retrieved)
        elif config.memory_integration == "concat":
            assert retrieved is not None
            h = self.memory_proj(torch.cat((h, retrieved), dim=-1))
        per_layer = retrieved if config.memory_integration == "per_layer" else None
        h = self.decoder(h, positions, per_layer, cache, states)
        if cache is not None:
            cache.evict(length)
        mask = valid.unsqueeze(-1).float()
        out = BitMarModelOutput(
            last_hidden_state=h,
            cache=cache,
            memory=state,
            hidden_states=tuple(states) if states is not None else None,
            attentions=tuple(positions.attentions) if positions.attentions is not None else None,
            cross_attentions=tuple(cross) if cross is not None else None,
            text_pooled=(z * mask).sum(1) / mask.sum(1).clamp(min=1),
            vision_pooled=None if vision is None else vision.float().mean(1),
            memory_change=change,
            read_weights=weights,
        )
        return out if asked(config, "return_dict", return_dict) else out.to_tuple()

    def _positions(
        self, x: Tensor, attention_mask: Tensor | None, cache: BitMarCache | None
    ) -> tuple[Tensor, Tensor, Positions]:
        """Validity of the new tokens (B, T), their places in their sequences, and where they stand for attention."""
        batch, length, _ = x.shape
        config = self.config
        numbers = (
            config.hidden_size // config.num_heads,
            config.rope_theta,
            config.attention_sinks,
            config.attention_window,
        )
        valid = torch.ones(batch, length, dtype=torch.bool, device=x.device)
        if attention_mask is not None:
            valid = valid_tokens(attention_mask, batch, length)
        # A traced graph holds for any mask; without padding one table serves all sequences.
        padded = attention_mask is not None and (torch.compiler.is_compiling() or not bool(valid.all()))
        if cache is None and not padded:
            place = torch.arange(length, device=x.device).unsqueeze(0)
            return valid, place, Positions(place, place, None, *numbers, length)
        place = valid.long().cumsum(1) - 1
        if cache is not None and cache.tokens is not None:
            place = place + cache.tokens.unsqueeze(1)
        place = place.clamp(min=0)
        keys, key_valid, longest = place, valid, length
        if cache is not None:
            keys, key_valid = cache.extend(place, valid)
            longest += cache.seen
        return valid, place, Positions(place, keys, key_valid, *numbers, longest)

    def _fuse(
        self,
        z: Tensor,
        pixel_values: Tensor | None,
        vision_features: Tensor | None,
        concepts: tuple[Tensor, Tensor] | None,
        image_mask: Tensor | None,
        cache: BitMarCache | None,
        kept: list[Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """f (B, T, d) and the vision tokens, where they are new: a picture given before is in the cache."""
        vision = self.encode_image(pixel_values, vision_features, concepts)
        if vision is not None:
            keys_values = self.fusion.keys_values(vision)
        elif cache is not None and cache.vision is not None:
            keys_values = cache.vision
            image_mask = cache.image_mask if image_mask is None else image_mask
        else:
            return z, None
        if cache is not None:
            cache.vision, cache.image_mask = keys_values, image_mask
        f = self.fusion(z, keys_values, kept)
        if image_mask is not None:
            f = torch.where(image_mask.bool().view(-1, 1, 1), f, z)
        return f, vision


class BitMarForCausalLM(BitMarPreTrainedModel, BitMarGenerationMixin):
    """BitMar with its ternary head: captions, completion, scoring and training."""

    _auto_class = "AutoModelForCausalLM"
    contrastive_weight = 1.5
    memory_weight = 0.1

    def __init__(self, config: BitMarConfig) -> None:
        super().__init__(config)
        self.model = BitMarModel(config)
        self.lm_head = BitLinear(config.hidden_size, config.vocab_size, config.quantization)
        self.starts = {"logit_scale": math.log(1 / 0.07)}  # learnable temperature of L_cm
        self.logit_scale = nn.Parameter(torch.tensor(self.starts["logit_scale"]))
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, value: BitLinear) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        concept_ids: Tensor | None = None,
        concept_scores: Tensor | None = None,
        image_mask: Tensor | None = None,
        past_key_values: BitMarCache | None = None,
        cache: BitMarCache | None = None,
        memory: MemoryState | None = None,
        write_memory: bool | None = None,
        read_memory: bool = True,
        rows: Rows | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> BitMarOutput | tuple[Any, ...]:
        """`BitMarModel.forward` with logits and losses.

        Args:
            labels: (B, T), -100 where nothing is predicted; in training no logits are returned: they would be T x V.
            logits_to_keep: only the logits of the last N positions (0 = all).
            rows: what training says of the rows (`Rows`): chains of episodes, equal pictures, weights.
        """
        out = self.model(
            input_ids,
            attention_mask,
            pixel_values=pixel_values,
            vision_features=vision_features,
            concept_ids=concept_ids,
            concept_scores=concept_scores,
            image_mask=image_mask,
            cache=own_cache(cache, past_key_values),
            memory=memory,
            write_memory=write_memory,
            read_memory=read_memory,
            rows=rows,
            return_dict=True,
            **inputs,
        )
        hidden, rows = out.last_hidden_state, rows or Rows()
        loss = lm = contrastive = alignment = logits = None
        if labels is None or not self.training:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, keep]).float()
        if labels is not None:
            bonus = None
            if rows.evidence:
                if self.model.concepts is None or input_ids is None or concept_ids is None or concept_scores is None:
                    raise ValueError("evidence is of concepts: give input_ids, concept_ids and concept_scores")
                bonus = self.model.concepts.bonus(input_ids, concept_ids, concept_scores)
            lm = language_modelling_loss(hidden, self.lm_head, labels, num_items_in_batch, rows.weights, bonus)
            loss = lm
            if out.vision_pooled is not None:
                scale = self.logit_scale.float().clamp(max=math.log(100)).exp()
                contrastive, alignment = contrastive_loss(
                    out.text_pooled, out.vision_pooled, scale, rows.image_ids, image_mask
                )
            if contrastive is not None:
                loss = loss + self.contrastive_weight * contrastive
            if out.memory_change is not None:
                loss = loss + self.memory_weight * out.memory_change
        found = BitMarOutput(
            loss=loss,
            logits=logits,
            cache=out.cache,
            memory=out.memory,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            lm_loss=lm,
            contrastive_loss=contrastive,
            memory_loss=out.memory_change,
            alignment=alignment,
            read_weights=out.read_weights,
        )
        return found if asked(self.config, "return_dict", return_dict) else found.to_tuple()


if __name__.startswith("transformers_modules."):
    # Loaded as a checkpoint's own code. A pipeline of version 4 finds the processor of a registered configuration only.
    from transformers import AutoImageProcessor, AutoProcessor

    from .image_processing_bitmar import BitMarImageProcessor
    from .processing_bitmar import BitMarProcessor

    AutoImageProcessor.register(BitMarConfig, slow_image_processor_class=BitMarImageProcessor, exist_ok=True)
    AutoProcessor.register(BitMarConfig, BitMarProcessor, exist_ok=True)
