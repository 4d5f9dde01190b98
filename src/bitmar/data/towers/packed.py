"""Patch features from the tower of a packed model, by the engine that runs it on devices: the fastest way on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitmar.core.errors import ConfigError
from bitmar.runtime.api import load


class PackedTower:
    """The tower of a `.bitmar` file, or of the one in a folder.

    Its features are those of the checkpoint it was packed from (`bitvit:`) but for the last bits of int8 rounding.
    """

    scale = None

    def __init__(self, path: str | Path) -> None:
        model = load(path)
        tower, shape = model.engine.tower, model.config.vision_tower
        if tower is None or shape is None:
            raise ConfigError(f"{path} has no vision tower: it was trained on another network's patch features")
        self._tower = tower
        self.mean, self.std = model.vision["mean"], model.vision["std"]
        self.size, self.grid, self.dim = shape.image_size, shape.grid, shape.out_dim
        self.name = f"bitmar:{model.path.parent.name}/{model.path.name}"
        self.fingerprint = str(model.container.checksum)[:16]

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        mean, std = (np.array(value, np.float32) for value in (self.mean, self.std))
        pixels = ((photos.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
        return np.stack([self._tower(np.ascontiguousarray(photo)) for photo in pixels])
