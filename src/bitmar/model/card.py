"""README.md of a checkpoint: a model card as the Hub reads it, with metadata on top."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData
from transformers import PreTrainedModel

PAPER = "arXiv:2510.10560"


def model_card(model: PreTrainedModel, card: Mapping[str, Any]) -> str:
    """The text of README.md.

    Args:
        card: name, licence, limits, figures, command, training_data (a list); each may be missing, further ones are
            listed too.
    """
    config = model.config
    sees = config.vision_tower is not None
    data = ModelCardData(
        language="en",
        license="other",
        license_name="see-below",
        library_name="transformers",
        pipeline_tag="image-text-to-text" if sees else "text-generation",
        tags=["bitmar", "ternary", "bitnet", "episodic-memory", "custom_code", PAPER],
    )
    rest = dict(card)
    name, licence = rest.pop("name", "BitMar"), rest.pop("licence", "not stated: ask whoever trained it")
    sources = rest.pop("training_data", [])
    count = sum(p.numel() for p in model.parameters())
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {name}",
        "",
        f"A BitMar ({PAPER}): {count / 1e6:.2f} million parameters, ternary in every projection; "
        f"d = {config.hidden_size}, {config.encoder_layers} + {config.decoder_layers} layers, "
        f"a vocabulary of {config.vocab_size:,}, a memory of {config.memory_slots} slots.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoProcessor",
        "",
        "model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)",
        "processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)",
        'batch = processor(images=photo, text="", return_tensors="pt")' if sees else
        'batch = processor(text="The dog", return_tensors="pt")',
        "print(processor.decode(model.generate(**batch, max_new_tokens=30)[0], skip_special_tokens=True))",
        "```",
        "",
        "`bitmar export FOLDER model.bitmar` packs it for the runtime, which needs no PyTorch.",
        "",
        "## Licence",
        "",
        str(licence),
        "",
    ]  # fmt: skip
    if sources:
        lines += ["## Training data", "", *(f"- {source}" for source in sources), ""]
    for key, value in rest.items():
        lines += [f"## {key.replace('_', ' ').capitalize()}", "", str(value), ""]
    return "\n".join(lines)
