"""The `.bitmar` file: one safetensors container, memory-mapped and validated whole before anything uses it.

Ternary matrices are packed four weights a byte (see `ternary.pack2`), the embedding is int8, the rest
float32. The metadata holds the configuration, the tokenizer, the picture's preprocessing and the model card.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bitmar.core.config import ModelConfig
from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.conv_weights import check_weights
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.layout import Array
from bitmar.core.sealed import MODEL, Tensors, check_tensors, checksum, json_object, read_sealed, write_sealed
from bitmar.core.tensors import (
    BACKGROUND_STRANGERS,
    CONCEPTS,
    CONFIDENCE,
    background_tensors,
    confidence_tensors,
    expected_tensors,
    linear_shapes,
)
from bitmar.core.ternary import check_codes
from bitmar.core.tokenizer import check_tokenizer

FORMAT_VERSION = MODEL.version
_VISION_TOWERS = ("bitvit", "conv", "vit", "features")


@dataclass(frozen=True)
class Container:
    """An open `.bitmar` file. `tensors` are read-only views into the file; nothing is copied."""

    path: Path
    config: ModelConfig
    tensors: Tensors
    tokenizer_json: str
    vision: dict[str, Any]  # size, mean, std, tower, ...: how a photo becomes the tower's input
    card: dict[str, Any]
    checksum: str  # of all the rest: which model this is
    mapping: mmap.mmap | None = None

    def release_pages(self) -> None:
        """Give the pages of the file that were read back to the system; a tensor read later fetches its own again."""
        if self.mapping is not None and hasattr(self.mapping, "madvise"):
            self.mapping.madvise(mmap.MADV_DONTNEED)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer of this model. Raises FormatError if it is damaged."""
        try:
            tokenizer = Tokenizer.from_str(self.tokenizer_json)
        except Exception as error:  # the library raises a bare Exception
            raise FormatError(f"{self.path}: damaged tokenizer ({error!s:.200})") from error
        return tokenizer


def write_container(
    path: str | Path,
    tensors: Tensors,
    *,
    config: ModelConfig,
    tokenizer_json: str,
    vision: Mapping[str, Any],
    card: Mapping[str, Any],
) -> None:
    """Write a `.bitmar` file atomically: after a kill or on a full disk the old file is still there.

    `tensors` are as `expected_tensors(config)` names them. Raises FormatError for what `open_container` would
    refuse, and BitMarError if the file cannot be written.
    """
    # order="C": safetensors writes the buffer as it lies in memory.
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    metadata = {
        "config": json.dumps(config.to_dict()),
        "tokenizer": tokenizer_json,
        "vision": json.dumps(dict(vision)),
        "card": json.dumps(dict(card)),
    }
    try:
        _check_vision(dict(vision), config)
        check_tokenizer(tokenizer_json, config)
        _check_tensors(tensors, config)
    except FormatError as error:
        raise FormatError(f"{path}: refusing to write: {error}") from None
    write_sealed(path, MODEL, metadata, tensors)


def with_tensors(container: Container, changed: Tensors, out: str | Path) -> None:
    """Write a model with these tensors in place of its own, or besides. Another checksum makes it another model."""
    write_container(
        out,
        {**container.tensors, **changed},
        config=container.config,
        tokenizer_json=container.tokenizer_json,
        vision=container.vision,
        card=container.card,
    )


def open_container(path: str | Path, *, verify: bool = True) -> Container:
    """Open and validate a `.bitmar` file.

    Checked in this order: header, format and version, checksum, configuration, preprocessing, tokenizer, names, shapes,
    types and values of all tensors; `verify=False` leaves out the checksum alone. The file is opened once: replaced
    meanwhile, it is the old model or the new one. Raises FormatError naming the file and the fault.
    """
    path = Path(path)
    try:
        metadata, tensors, mapping = read_sealed(path, MODEL)
        if verify and checksum(metadata, tensors) != metadata["checksum"]:
            raise FormatError("the checksum does not match: the file is damaged, get it again")
        config = ModelConfig.from_dict(json_object(metadata, "config"))
        vision, card = json_object(metadata, "vision"), json_object(metadata, "card")
        _check_vision(vision, config)
        check_tokenizer(metadata["tokenizer"], config)
        _check_tensors(tensors, config)
    except (FormatError, ConfigError) as error:
        raise FormatError(f"{path}: {error}") from error
    frozen = MappingProxyType(tensors)
    container = Container(path, config, frozen, metadata["tokenizer"], vision, card, metadata["checksum"], mapping)
    container.release_pages()  # checking has read them all; on a small device they would stand in the engine's way
    return container


def _check_vision(vision: dict[str, Any], config: ModelConfig) -> None:
    tower = vision.get("tower")
    if tower not in _VISION_TOWERS:
        raise FormatError(f"vision tower {tower!r:.40} is none of {', '.join(_VISION_TOWERS)}")
    configured = config.vision_tower.kind if config.vision_tower else None
    if tower != (configured or "features"):
        has = f"a {configured} tower" if configured else "no vision_tower"
        raise FormatError(f"vision says {tower!r}, but the configuration has {has}")
    check_preprocessing(vision, config.vision_tower.image_size if config.vision_tower else None)


def check_preprocessing(vision: Mapping[str, Any], image_size: int | None) -> None:
    """Raise FormatError unless `vision` has a size (that of the tower, if it is known), a mean and a std."""
    size, mean, std = (vision.get(key) for key in ("size", "mean", "std"))
    if type(size) is not int or not 0 < size <= 4096:
        raise FormatError(f"vision size {size!r:.40} must be between 1 and 4096 pixels")
    if image_size is not None and size != image_size:
        raise FormatError(f"vision size {size} differs from the tower's image_size {image_size}")
    for name, triple, low in (("mean", mean, -1e3), ("std", std, 1e-6)):
        if (
            not isinstance(triple, (list, tuple))
            or len(triple) != 3
            or not all(type(value) in (int, float) and low <= value <= 1e3 for value in triple)
        ):
            raise FormatError(f"vision {name} must be three numbers, one a colour, not {triple!r:.80}")


def _check_tensors(tensors: Tensors, config: ModelConfig) -> None:
    expected = expected_tensors(config)
    background = background_tensors(config, tensors)
    if background.keys() & tensors.keys():
        expected |= background
    if config.concepts and CONFIDENCE in tensors:
        expected |= confidence_tensors()
    check_tensors(tensors, expected)
    if isinstance(config.vision_tower, ConvTowerConfig):
        check_weights(config.vision_tower, tensors)
    for name, (_, in_features) in linear_shapes(config).items():
        if tensors[name].dtype == np.uint8:
            _check_packing(name, tensors[name], in_features)
    if config.concepts:
        _check_concepts(tensors, config)
    if BACKGROUND_STRANGERS in tensors and (np.diff(tensors[BACKGROUND_STRANGERS]) < 0).any():
        raise FormatError(f"tensor {BACKGROUND_STRANGERS!r} does not rise")


def _check_concepts(tensors: Tensors, config: ModelConfig) -> None:
    words, of_class = tensors[f"{CONCEPTS}.words"], tensors[f"{CONCEPTS}.class_concepts"]
    if words.min() < -1 or words.max() >= config.vocab_size:
        raise FormatError(f"tensor '{CONCEPTS}.words' holds token ids outside the vocabulary of {config.vocab_size}")
    if (words[:, 0] < 0).any() or ((words[:, :-1] < 0) & (words[:, 1:] >= 0)).any():
        raise FormatError(f"tensor '{CONCEPTS}.words' holds a concept without a word, or a word with a hole")
    if len(of_class) and (of_class.min() < -1 or of_class.max() >= config.concepts):
        raise FormatError(f"tensor '{CONCEPTS}.class_concepts' names concepts that the bank of {config.concepts} lacks")


def _check_packing(name: str, packed: Array, in_features: int) -> None:
    try:
        check_codes(packed, in_features)
    except FormatError as error:
        raise FormatError(f"tensor {name!r}: {error}") from None
