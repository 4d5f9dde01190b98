"""Writing a checkpoint: a Hugging Face folder that carries its own code (`trust_remote_code`) and loads anywhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors
from transformers import PreTrainedModel

from .card import model_card
from .image_processing_bitmar import BitMarImageProcessor

AUTO_MAP = {
    "AutoConfig": "configuration_bitmar.BitMarConfig",
    "AutoModel": "modeling_bitmar.BitMarModel",
    "AutoModelForCausalLM": "modeling_bitmar.BitMarForCausalLM",
    "AutoModelForImageTextToText": "modeling_bitmar.BitMarForCausalLM",
    "AutoModelForVision2Seq": "modeling_bitmar.BitMarForCausalLM",  # its name before version 5
}
PROCESSOR_MAP = {
    "AutoImageProcessor": "image_processing_bitmar.BitMarImageProcessor",
    "AutoProcessor": "processing_bitmar.BitMarProcessor",
}


# A BitMar continues text: a chat is its messages one after the other, the picture beside them.
CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
  {%- if not loop.first %}{{ " " }}{% endif -%}
  {%- if message["content"] is string -%}{{ message["content"] }}
  {%- else -%}
    {%- for part in message["content"] if part["type"] == "text" -%}{{ part["text"] }}{%- endfor -%}
  {%- endif -%}
{%- endfor -%}
"""


def save_checkpoint(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer_json: str,
    vision_preprocessing: Mapping[str, Any],
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a self-contained checkpoint into `folder`, beside whatever else is in there (an optimizer's state, say).

    Args:
        model: a BitMar model, unwrapped. tokenizer_json: the text of tokenizer.json; the folder's copy puts BOS first.
        vision_preprocessing: {"size": pixels, "resize": "squash", "mean": [r, g, b], "std": [r, g, b], ...}; further
            keys (the tower's name, its hash) are kept. card: what README.md says of the model (see `card.py`).
    Returns:
        The folder. Everything is written beside it first and then renamed into it, so that a full disk leaves the
        old checkpoint whole. Raises ValueError if the tokenizer does not fit the model, OSError if it cannot write.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.auto_map = dict(AUTO_MAP)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        partial = Path(name)
        _write_tokenizer(partial, model.config, tokenizer_json)
        _write_processor(partial, vision_preprocessing)
        for source in Path(__file__).parent.glob("[!_]*.py"):
            shutil.copyfile(source, partial / source.name)
        (partial / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        (partial / "README.md").write_text(model_card(model, card or {}), encoding="utf-8")
        model.save_pretrained(partial)
        for file in sorted(partial.iterdir()):
            os.replace(file, folder / file.name)
    return folder


def _write_tokenizer(folder: Path, config: Any, tokenizer_json: str) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if tokenizer.get_vocab_size() > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.get_vocab_size()} entries, the model only {config.vocab_size}: "
            "save the tokenizer that the model was trained with"
        )
    bos, eos, pad = (_token(tokenizer, config, role) for role in ("bos", "eos", "pad"))
    _put_bos_first(tokenizer, bos, config.bos_token_id)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the name that transformers 4 and 5 both know
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "padding_side": "left",  # generation continues the right end of a batch
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    if config.image_token_id is not None:
        settings["extra_special_tokens"] = {"image_token": _token(tokenizer, config, "image")}
    _write_json(folder / "tokenizer_config.json", settings)


def _token(tokenizer: Tokenizer, config: Any, role: str) -> str:
    number = getattr(config, f"{role}_token_id")
    token = tokenizer.id_to_token(number)
    if token is None:
        raise ValueError(f"{role}_token_id is {number}, but the tokenizer has no such entry")
    return token


def _put_bos_first(tokenizer: Tokenizer, bos: str, bos_id: int) -> None:
    """Rows of training begin with BOS, and harnesses leave it to the tokenizer to put it there."""
    if tokenizer.encode("a").ids[:1] == [bos_id]:
        return
    template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, bos_id)])
    before = tokenizer.post_processor
    tokenizer.post_processor = template if before is None else processors.Sequence([before, template])


def _write_processor(folder: Path, vision: Mapping[str, Any]) -> None:
    vision = dict(vision)
    image = BitMarImageProcessor(image_mean=vision.pop("mean"), image_std=vision.pop("std"), **vision)
    own = {"auto_map": PROCESSOR_MAP, "processor_class": "BitMarProcessor"}
    _write_json(folder / "preprocessor_config.json", {**image.to_dict(), **own})
    _write_json(folder / "processor_config.json", own)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
