"""Vision towers as a program sees them: a square photo in, patch features out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.errors import ConfigError
from bitmar.core.image import normalize
from bitmar.core.sealed import Tensors
from bitmar.core.ternary import F32, U8
from bitmar.core.vit_config import VitTowerConfig
from bitmar.runtime.backend import NUMPY, VARIABLE
from bitmar.runtime.conv import ConvTower
from bitmar.runtime.vit import VitTower

Tower = Callable[[U8], F32]  # a square photo, uint8 (S, S, 3) -> patch features (N_p, D_v)


def from_pixels(tower: Callable[[F32], F32], vision: Mapping[str, Any]) -> Tower:
    """A tower over normalised pixels (3, S, S) as one over photos; `vision` has their mean and std."""
    return lambda photo: tower(normalize(photo, mean=vision["mean"], std=vision["std"]))


def imported_tower(config: ConvTowerConfig | VitTowerConfig, tensors: Tensors, engine: str | None = None) -> Tower:
    """A pretrained tower, of a file of its own or of a model's. engine: as in `choose.choose_backend`.

    A `vit` runs on numpy whatever the engine. Raises ConfigError for an engine that cannot run.
    """
    if isinstance(config, VitTowerConfig):
        return VitTower(config, tensors)
    wish = engine or os.environ.get(VARIABLE, "")
    if wish == NUMPY:
        return ConvTower(config, tensors)
    try:
        from bitmar import _native
    except ImportError:
        if wish:
            raise ConfigError(f"the kernels {wish!r} belong to the native engine, which was not built here") from None
        return ConvTower(config, tensors)
    try:
        return _native.ConvTower(config.to_dict(), dict(tensors), wish)
    except ValueError as error:  # kernels that are not there
        raise ConfigError(str(error)) from error


def mean_features(features: F32) -> F32:
    """The features of the whole photo, (D_v,): the mean over its patches (N_p, D_v)."""
    pooled: F32 = features.mean(axis=0, dtype=np.float32)
    return pooled
