"""The configuration that a checkpoint folder carries; `bitmar.core.config.ModelConfig` is its torch-free twin."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class BitMarConfig(PretrainedConfig):
    """Numbers of a BitMar model; the defaults are the paper's (`bitmar-14m`), where the paper gives one.

    Args:
        vocab_size: V, rows of the embedding and of the head.
        hidden_size: d. encoder_layers, decoder_layers, num_heads, intermediate_size: the two stacks (section 3.1,
        3.4.1).
        activation: "relu2" or "gelu" in the feed-forward layers.
        sequence_length: tokens in a training row. attention_sinks: S. attention_window: W.
        vision_dim: D_v of the patch features, vision_grid x vision_grid of them; vision_pool: side of the average
            pooling (1 = none); vision_hidden: width between the two layers of the vision MLP (section 3.2).
        concepts: K_c, concepts in the bank (0: none), of which the concept_tokens best are told to the text as vision
            tokens; concept_keys: those with keys of their own, the first ones (0: all); concept_classes: keys of the
            backbone's own classes, which read the last concept_class_width channels of the features (0: all);
            concept_evidence: by how much of their log-odds concepts raise the logits of their words in `generate`.
        query_pooling: "mean" or "learned". memory_slots: K. memory_dim: C. memory_alpha: write rate of eq. 1.
        memory_decay: factor on a slot's usage at each write. memory_segment: tokens between two writes.
        write_rule: "address" or "literal" (eq. 1 unchanged).
        memory_integration: "per_layer", "add", "concat" or "off". memory_gate_init: start of every gate g_l.
        quantization: "ternary", or "none" for the unquantised model of the same size.
        vision_tower: `BitViTConfig` arguments of the built-in tower, or None when features come from outside.
    """

    model_type = "bitmar"
    _auto_class = "AutoConfig"  # whatever is saved carries its code
    # What `Trainer` does not gather in evaluation: all but the logits. It adds to this list, so a list it has to be.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "cache",
        "past_key_values",
        "memory",
        "hidden_states",
        "attentions",
        "cross_attentions",
        "lm_loss",
        "contrastive_loss",
        "memory_loss",
        "alignment",
        "read_weights",
    ]

    def __init__(
        self,
        vocab_size: int = 50257,
        hidden_size: int = 128,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        num_heads: int = 4,
        intermediate_size: int = 512,
        activation: str = "relu2",
        rope_theta: float = 10000.0,
        norm_eps: float = 1e-6,
        sequence_length: int = 256,
        attention_sinks: int = 4,
        attention_window: int = 1020,
        vision_dim: int = 768,
        vision_grid: int = 16,
        vision_pool: int = 2,
        vision_hidden: int = 384,
        dropout: float = 0.0,
        vision_dropout: float = 0.1,
        concepts: int = 0,
        concept_classes: int = 0,
        concept_keys: int = 0,
        concept_class_width: int = 0,
        concept_evidence: float = 0.0,
        concept_tokens: int = 12,
        query_pooling: str = "mean",
        memory_slots: int = 512,
        memory_dim: int = 128,
        memory_alpha: float = 0.2,
        memory_decay: float = 0.99,
        memory_segment: int = 256,
        write_rule: str = "address",
        memory_integration: str = "per_layer",
        memory_gate_init: float = 0.1,
        quantization: str = "ternary",
        bos_token_id: int = 50256,
        eos_token_id: int = 50256,
        pad_token_id: int = 50256,
        image_token_id: int | None = None,
        vision_tower: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.encoder_layers = encoder_layers
        self.decoder_layers = decoder_layers
        self.num_heads = num_heads
        self.intermediate_size = intermediate_size
        self.activation = activation
        self.rope_theta = rope_theta
        self.norm_eps = norm_eps
        self.sequence_length = sequence_length
        self.attention_sinks = attention_sinks
        self.attention_window = attention_window
        self.vision_dim = vision_dim
        self.vision_grid = vision_grid
        self.vision_pool = vision_pool
        self.vision_hidden = vision_hidden
        self.dropout = dropout
        self.vision_dropout = vision_dropout
        self.concepts = concepts
        self.concept_classes = concept_classes
        self.concept_keys = concept_keys
        self.concept_class_width = concept_class_width
        self.concept_evidence = concept_evidence
        self.concept_tokens = concept_tokens
        self.query_pooling = query_pooling
        self.memory_slots = memory_slots
        self.memory_dim = memory_dim
        self.memory_alpha = memory_alpha
        self.memory_decay = memory_decay
        self.memory_segment = memory_segment
        self.write_rule = write_rule
        self.memory_integration = memory_integration
        self.memory_gate_init = memory_gate_init
        self.quantization = quantization
        self.image_token_id = image_token_id
        self.vision_tower = vision_tower
        # The embedding (int8 on the device) and the head (ternary) are two tables.
        kwargs["tie_word_embeddings"] = False
        kwargs.setdefault("is_encoder_decoder", False)
        kwargs.setdefault("tokenizer_class", "PreTrainedTokenizerFast")  # what a pipeline of version 4 asks for
        super().__init__(bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs)

    @property
    def num_hidden_layers(self) -> int:
        """Layers that a token passes; transformers and the evaluation harnesses ask for this name."""
        return self.encoder_layers + self.decoder_layers

    @property
    def num_attention_heads(self) -> int:
        return self.num_heads
