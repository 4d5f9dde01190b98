"""Patch features from a packed tower, by the engine that runs it on devices: the fastest way on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitmar.api import load
from bitmar.core.config import TowerConfig
from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.errors import ConfigError
from bitmar.core.sealed import TOWER, form_of
from bitmar.core.tower_file import open_tower
from bitmar.runtime.tower import imported_tower


class PackedTower:
    """The tower of a tower file (`bitmar tower import`), of a model's `.bitmar` file, or of the one in a folder.

    A convolution tower's features are the same numbers on every engine and path. Those of a `bitvit` are those of the
    checkpoint it was packed from (`bitvit:`) but for the last bits of int8 rounding.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.scale: float | None = None
        shape: TowerConfig
        if path.is_file() and form_of(path) is TOWER:
            alone = open_tower(path)
            shape, self._tower, vision = alone.config, imported_tower(alone.config, alone.tensors), alone.vision
            self.name, self.fingerprint = f"bitmar:{path.name}", alone.fingerprint
        else:
            model = load(path)
            if model.engine.tower is None or model.config.vision_tower is None:
                raise ConfigError(f"{path} has no vision tower: it was trained on another network's patch features")
            shape, self._tower, vision = model.config.vision_tower, model.engine.tower, model.vision
            self.name = f"bitmar:{model.path.parent.name}/{model.path.name}"
            self.fingerprint = str(model.container.checksum)[:16]
        self.mean, self.std = vision["mean"], vision["std"]
        self.size, self.grid, self.dim = shape.image_size, shape.grid, shape.out_dim
        if isinstance(shape, ConvTowerConfig):
            scale, zero = shape.map_scale(len(shape.layers))
            self.scale = scale if zero == 0 else None

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        return np.stack([self._tower(np.ascontiguousarray(photo)) for photo in photos])
