"""Two backbones over one photo, the features of both one after the other in the channels of each patch."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from bitmar.backbone.graph import Backbone, Layer
from bitmar.core.errors import ConfigError


def side_by_side(first: Backbone, second: Backbone) -> Backbone:
    """One network of both. The second reads the photo as the first wants it, which its first layers undo.

    Its features keep their bytes and take the first's scale, as the tower `pair:` of `data.towers` has them. Raises
    ConfigError for backbones of different sides.
    """
    if first.image_size != second.image_size:
        raise ConfigError(f"backbones of {first.image_size} and {second.image_size} pixels make no pair; give --size")
    photo, other, last = first.quants[0], second.quants[0], first.quants[-1]
    assert photo is not None and other is not None
    moved = len(first.layers)
    layers = [*first.layers]
    for layer in second.layers:
        if layer.inputs == (0,) and photo != other:
            layer = _renormalised(layer, photo, other)
        layers.append(replace(layer, inputs=tuple(k + moved if k else 0 for k in layer.inputs)))
    layers.append(Layer("features", "concat", (moved, len(layers)), "none"))
    quants = [*first.quants, *second.quants[1:], last]
    stand_ins = [
        hashlib.sha256(f"{a} {b}".encode()).hexdigest()[:16]
        for a in first.card.get("stands_for", ())
        for b in second.card.get("stands_for", ())
    ]
    card = {"parts": [first.card, second.card], "stands_for": stand_ins}
    return Backbone(first.image_size, layers, quants, first.vision, card)


def _renormalised(layer: Layer, photo: tuple[float, int], wanted: tuple[float, int]) -> Layer:
    """A layer over pixels normalised by `wanted` (scale, zero) as one over pixels normalised by `photo`."""
    assert layer.weight is not None and layer.bias is not None
    factor, offset = wanted[0] / photo[0], wanted[0] * (photo[1] - wanted[1])
    axes = tuple(range(1, layer.weight.ndim))
    return replace(
        layer, weight=layer.weight * factor, bias=layer.bias + offset * layer.weight.sum(axis=axes), step=None
    )
