"""A vision tower alone in a file: what `bitmar tower import` writes and `bitmar export --tower` packs into a model."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bitmar.core.config import imported_from_dict
from bitmar.core.container import check_preprocessing
from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.conv_weights import check_weights
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.sealed import TOWER, Tensors, check_tensors, checksum, json_object, read_sealed, write_sealed
from bitmar.core.tensors import imported_tensors
from bitmar.core.vit_config import VitTowerConfig

Imported = ConvTowerConfig | VitTowerConfig


@dataclass(frozen=True)
class TowerFile:
    """An open tower file. `tensors` are read-only views into the file.

    vision: size, mean, std, resize: how a photo becomes the tower's input. card: source, licence, and `stands_for`: the
    fingerprints of the towers whose features these are.
    """

    path: Path
    config: Imported
    tensors: Tensors
    vision: dict[str, Any]
    card: dict[str, Any]
    checksum: str
    mapping: mmap.mmap | None = None

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal features."""
        return self.checksum[:16]


def write_tower(
    path: str | Path, config: Imported, tensors: Tensors, *, vision: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Write a tower file atomically. Raises FormatError for what `open_tower` would refuse."""
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        _check(config, tensors, vision)
    except FormatError as error:
        raise FormatError(f"{path}: refusing to write: {error}") from None
    metadata = {
        "config": json.dumps(config.to_dict()),
        "vision": json.dumps(dict(vision)),
        "card": json.dumps(dict(card)),
    }
    write_sealed(path, TOWER, metadata, tensors)


def open_tower(path: str | Path) -> TowerFile:
    """Open and validate a tower file whole. Raises FormatError naming the file and the fault."""
    path = Path(path)
    try:
        metadata, tensors, mapping = read_sealed(path, TOWER)
        if checksum(metadata, tensors) != metadata["checksum"]:
            raise FormatError("the checksum does not match: the file is damaged, get it again")
        config = imported_from_dict(json_object(metadata, "config"))
        vision, card = json_object(metadata, "vision"), json_object(metadata, "card")
        _check(config, tensors, vision)
    except (FormatError, ConfigError) as error:
        raise FormatError(f"{path}: {error}") from error
    return TowerFile(path, config, MappingProxyType(tensors), vision, card, metadata["checksum"], mapping)


def _check(config: Imported, tensors: Tensors, vision: Mapping[str, Any]) -> None:
    check_preprocessing(vision, config.image_size)
    check_tensors(tensors, imported_tensors(config))
    if isinstance(config, ConvTowerConfig):
        check_weights(config, tensors)
