"""Two towers side by side: what one overlooks the other may see."""

from __future__ import annotations

import hashlib

import numpy as np

from bitmar.core.errors import ConfigError
from bitmar.data.towers import VisionTower, classifier, load_tower


class PairTower:
    """`pair:FIRST+SECOND`: the features of both towers, one after the other in the channels of each patch.

    Both must have the same input size and grid. The second's features are multiplied so that one step of its uint8 is
    one step of the first's: then the pair can be stored as uint8 too. The vision MLP's norm weighs the channels.
    """

    mean = (0.0, 0.0, 0.0)  # each tower prepares the raw pixels for itself
    std = (1.0, 1.0, 1.0)

    def __init__(self, source: str) -> None:
        first, sign, second = str(source).partition("+")
        if not sign:
            raise ConfigError(f"pair:{source} names one tower; give pair:FIRST+SECOND")
        self.towers: tuple[VisionTower, VisionTower] = (load_tower(first), load_tower(second))
        one, two = self.towers
        if (one.size, one.grid) != (two.size, two.grid):
            raise ConfigError(f"{one.name} and {two.name} differ in input size or grid, so they make no pair")
        self.size, self.grid, self.dim, self.scale = one.size, one.grid, one.dim + two.dim, one.scale
        self.gain = one.scale / two.scale if one.scale and two.scale else 1.0
        self.name = f"pair:{one.name}+{two.name}"
        self.fingerprint = hashlib.sha256(f"{one.fingerprint} {two.fingerprint}".encode()).hexdigest()[:16]

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) -> float32 (B, grid^2, dim)."""
        one, two = (tower(photos) for tower in self.towers)
        return np.concatenate((one, two * np.float32(self.gain)), axis=-1)

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean of what both say: weight (1000, dim), bias (1000,). ConfigError where one of them has no classes."""
        (first, bias), (second, other) = (classifier(tower) for tower in self.towers)
        weight = np.concatenate((first, second / np.float32(self.gain)), axis=1) / 2
        return weight.astype(np.float32), ((bias + other) / 2).astype(np.float32)


def last_classifier(tower: VisionTower, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The classifier of the second of two towers alone, on its `width` channels: weight (1000, width), bias (1000,).

    ConfigError for a tower that does not end in one of `width` channels, or in one without classes.
    """
    if not isinstance(tower, PairTower) or tower.towers[1].dim != width:
        raise ConfigError(f"{tower.name} is no pair whose second tower has {width} channels")
    weight, bias = classifier(tower.towers[1])
    return (weight / np.float32(tower.gain)).astype(np.float32), bias
