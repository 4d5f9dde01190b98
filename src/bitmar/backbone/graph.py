"""A backbone's layers as read from a file, before they are quantised for ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bitmar.core.errors import FormatError

F64 = npt.NDArray[np.float64]


@dataclass(slots=True)
class Layer:
    """One layer; it writes the map of its own number, the photo is map 0.

    weight: (out, kernel, kernel, in), of a depthwise layer (channels, kernel, kernel); norms are folded into it. step:
    per output channel, of weights that are integers times it in the file already, else None. pad: pixels before and
    after each row and column.
    """

    name: str
    op: str
    inputs: tuple[int, ...]
    activation: str
    weight: F64 | None = None
    bias: F64 | None = None
    step: F64 | None = None
    stride: int = 1
    pad: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Backbone:
    """A network up to its patch features.

    quants: (scale, zero) of each map, the photo first, where the file states them; scale * (q - zero) is the value of a
    byte. The photo's is always stated: how the network wants its pixels. vision: size, mean and std of those, as a
    model's file says it. card: source, licence, fingerprints of the towers that give these features.
    """

    image_size: int
    layers: list[Layer]
    quants: list[tuple[float, int] | None]
    vision: dict[str, Any]
    card: dict[str, Any] = field(default_factory=dict)


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: the output has ceil(side / stride) pixels; an odd pixel comes after."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def finite(values: F64, name: str) -> F64:
    """The values. Raises FormatError naming the layer if one of them is no finite number."""
    if not np.isfinite(values).all():
        raise FormatError(f"layer {name!r} holds values that are not finite")
    return values
