"""Vision towers: from squashed photos to patch features. `load_tower("litert:PATH")` gives one."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np

from bitmar.core.errors import ConfigError, DependencyError, nearest, pip_install

FORMS = (
    "litert:FILE, litert-torch:FILE (.tflite), efficientnet-lite:0-4, dinov2:small|base|large|FOLDER, bitvit:FOLDER, "
    "bitmar:FILE or pair:FIRST+SECOND"
)

CLASSES = 1000


class VisionTower(Protocol):
    """The interface of every tower.

    size: side of the input in pixels. grid: side of the patch map, so that N_p = grid^2. dim: D_v.
    mean, std: per channel, subtracted from and divided into pixels in [0, 1]; the tower does this itself.
    scale: set if the features are (close to) integers 0..255 times it, so that uint8 stores them; else None.
    fingerprint: hash of the weights and the preprocessing; equal fingerprints mean equal features.
    """

    name: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grid: int
    dim: int
    scale: float | None
    fingerprint: str

    def __call__(self, photos: np.ndarray) -> np.ndarray:
        """uint8 (B, size, size, 3) RGB -> float32 (B, grid^2, dim)."""
        ...


@runtime_checkable
class ClassifyingTower(Protocol):
    """A tower that still has the ImageNet classifier that its features were trained under."""

    def classifier(self) -> tuple[np.ndarray, np.ndarray]:
        """The linear layer from the mean patch feature to the 1,000 classes in order: weight (1000, dim), bias
        (1000,), float32."""
        ...


def classifier(tower: VisionTower) -> tuple[np.ndarray, np.ndarray]:
    """The tower's classes as `ClassifyingTower.classifier` gives them; ConfigError where it has none."""
    if not isinstance(tower, ClassifyingTower):
        raise ConfigError(
            f"{tower.name} has no classes; litert-torch:FILE, efficientnet-lite:0-4 or a pair of them has"
        )
    weight, bias = tower.classifier()
    if weight.shape != (CLASSES, tower.dim):
        raise ConfigError(f"{tower.name} tells {len(weight)} classes apart, not the {CLASSES:,} of ImageNet")
    return weight, bias


# Kind -> where it lives. Imported on use: each needs packages that the others do without.
_TOWERS = {
    "litert": ("litert", "LiteRTTower"),
    "litert-torch": ("litert_torch", "LiteRTTorchTower"),
    "efficientnet-lite": ("efficientnet_lite", "EfficientNetLiteTower"),
    "pair": ("pair", "PairTower"),
    "dinov2": ("dinov2", "DINOv2Tower"),
    "bitvit": ("bitvit", "BitViTTower"),
    "bitmar": ("packed", "PackedTower"),
}


def load_tower(spec: str) -> VisionTower:
    """The tower that `spec` names as KIND:SOURCE. Unknown kind: ConfigError; no package: DependencyError."""
    kind, _, source = spec.partition(":")
    if kind not in _TOWERS:
        raise ConfigError(f"unknown vision tower {kind!r}{nearest(kind, _TOWERS)}; give {FORMS}")
    if not source:
        raise ConfigError(f"vision tower {spec!r} names no source; give {FORMS}")
    module, name = _TOWERS[kind]
    try:
        found = getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        raise DependencyError(f"{spec} needs {error.name}: {pip_install('train,vision')}") from error
    tower: VisionTower = found(source)
    return tower
