"""The tokenizer inside a file: byte-level BPE as this project trains and exports it, and nothing else.

tokenizer.json can describe any pipeline, with regular expressions of a stranger's choice that keep a processor busy for
minutes. So the document is read as plain JSON first, and the tokenizers library gets to see only one whose every part
is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bitmar.core.config import ModelConfig
from bitmar.core.errors import FormatError
from bitmar.core.strict_json import unique_keys

_PIPELINE = {"normalizer", "pre_tokenizer", "model", "post_processor", "decoder"}
_PARTS = {"version", "truncation", "padding", "added_tokens", *_PIPELINE}
_POST_PROCESSORS = ("ByteLevel", "TemplateProcessing")  # runtime and training put the special tokens in themselves
_LONGEST = 1 << 12  # characters of one entry of the vocabulary


def check_tokenizer(text: str, config: ModelConfig) -> None:
    """Raise FormatError unless this tokenizer.json is a byte-level BPE that fits the model; nothing of it is run."""
    try:
        document = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"damaged tokenizer ({error})") from error
    try:
        _check(document, config)
    except (KeyError, TypeError, AttributeError) as error:  # a part that is missing or of another type
        raise FormatError(f"damaged tokenizer (no tokenizer.json: {error!r:.120})") from error


def _check(document: Mapping[str, Any], config: ModelConfig) -> None:
    model = document["model"]
    if unknown := document.keys() - _PARTS:
        raise FormatError(f"tokenizer: unknown part {min(unknown)!r:.40}")
    _only("model", model, "BPE")
    _only("pre_tokenizer", document["pre_tokenizer"], "ByteLevel")
    _only("decoder", document["decoder"], "ByteLevel")
    if document["post_processor"] is not None:
        _only("post_processor", document["post_processor"], *_POST_PROCESSORS)
    if document["normalizer"] is not None:
        raise FormatError(
            "tokenizer: it has a normalizer; a .bitmar file holds byte-level BPE, which reads text as it is"
        )
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise FormatError(f"tokenizer: its BPE has {option} = {model[option]!r:.40}, which byte-level BPE has not")
    _check_ids(model, document["added_tokens"], config)


def _only(part: str, found: Mapping[str, Any], *kinds: str) -> None:
    kind = None if found is None else found["type"]
    if kind not in kinds:
        raise FormatError(
            f"tokenizer: its {part} is {kind or 'none'!s:.40}, not {' or '.join(kinds)}; "
            "a .bitmar file holds byte-level BPE (`bitmar tokenizer train` makes one)"
        )


def _check_ids(model: Mapping[str, Any], added: list[Mapping[str, Any]], config: ModelConfig) -> None:
    """Every id has one entry and is one of the model's, and what the model names by id is there."""
    vocabulary: dict[str, int] = model["vocab"]
    entries = {**vocabulary}
    for token in added:
        content, place = token["content"], token["id"]
        if entries.setdefault(content, place) != place:
            raise FormatError(f"tokenizer: {content!r:.40} has two ids")
    names: dict[int, str] = {}
    for content, place in entries.items():
        if type(place) is not int or not 0 <= place < config.vocab_size:
            raise FormatError(
                f"tokenizer: {content!r:.40} has the id {place!r:.40}, outside the model's vocabulary of "
                f"{config.vocab_size}"
            )
        if not 0 < len(content) <= _LONGEST:
            raise FormatError(f"tokenizer: the entry of id {place} has {len(content)} characters")
        if names.setdefault(place, content) != content:
            raise FormatError(f"tokenizer: {content!r:.40} and {names[place]!r:.40} have one id")
    unknown = model.get("unk_token")
    if unknown is not None and unknown not in vocabulary:
        raise FormatError(f"tokenizer: its unknown token {unknown!r:.40} is not in its vocabulary")
    for role in ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"):
        if (place := getattr(config, role)) is not None and place not in names:
            raise FormatError(f"tokenizer: it has no token {place}, the model's {role}")
