"""A convolution tower as data: a pretrained backbone's layers in the order of their computation.

Every map is uint8 (side, side, channels): a number q of it stands for scale * (q - zero), as in integer-only
inference (Jacob et al. 2018, arXiv 1712.05877). Weights are integers with one scale per output channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitmar.core.errors import ConfigError
from bitmar.core.tower_fields import need_choice, need_keys, need_scale, need_whole

OPS = ("conv", "depthwise", "add", "concat")
ACTIVATIONS = ("none", "relu", "relu6")
WEIGHTS = ("int8", "int6", "int4", "digits")  # how the file stores them; the engines compute with int8
_COMMON = ("op", "from", "activation", "scale", "zero")
_KEYS = {
    "conv": (*_COMMON, "channels", "kernel", "stride", "pad"),
    "depthwise": (*_COMMON, "kernel", "stride", "pad"),
    "add": _COMMON,
    "concat": ("op", "from", "scale", "zero"),
}
_TOWER_KEYS = ("kind", "image_size", "scale", "zero", "weights", "int8_below", "layers")
_MAX_LAYERS = 1024
_MAX_CHANNELS = 1 << 14
_MAX_COLUMNS = 1 << 14  # of a kernel: 2 * 255 * 127 * 2^14 and a bias of 2^30 stay below 2^31
_MAX_KERNEL, _MAX_STRIDE = 15, 4


@dataclass(frozen=True, slots=True)
class MapShape:
    """A map's side in pixels and its channels."""

    side: int
    channels: int


@dataclass(frozen=True, slots=True)
class ConvLayer:
    """One layer; it writes the map of its own number, and the photo is map 0.

    conv: a dense kernel. depthwise: one kernel a channel. add: the sum of two maps. concat: the channels of two maps,
    one after the other, their bytes as they are. pad: pixels of value 0 before and after each row and column. scale,
    zero: of the map it writes.
    """

    op: str
    inputs: tuple[int, ...]
    scale: float
    zero: int
    activation: str = "none"
    channels: int = 0
    kernel: int = 1
    stride: int = 1
    pad: tuple[int, int] = (0, 0)

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest q that the activation lets through."""
        if self.activation == "none":
            return 0, 255
        if self.activation == "relu":
            return self.zero, 255
        return self.zero, min(255, self.zero + round(6 / self.scale))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, only those that the operation has."""
        values = {
            "op": self.op,
            "from": list(self.inputs),
            "activation": self.activation,
            "scale": self.scale,
            "zero": self.zero,
            "channels": self.channels,
            "kernel": self.kernel,
            "stride": self.stride,
            "pad": list(self.pad),
        }
        return {key: values[key] for key in _KEYS[self.op]}


@dataclass(frozen=True, slots=True)
class ConvTowerConfig:
    """`conv`: a photo of image_size pixels per side as map 0, then the layers; the last map has the patch features."""

    image_size: int
    scale: float  # of the photo's bytes
    zero: int
    weights: str
    layers: tuple[ConvLayer, ...]
    int8_below: int = 0  # kernels of fewer weights are stored as int8: the most sensitive, and a small share of all
    kind: str = "conv"

    def __post_init__(self) -> None:
        need_whole("image_size", self.image_size, 1, 4096)
        need_scale("scale", self.scale)
        need_whole("zero", self.zero, 0, 255)
        need_choice("weights", self.weights, WEIGHTS)
        need_whole("int8_below", self.int8_below, 0, 1 << 30)
        if not 0 < len(self.layers) <= _MAX_LAYERS:
            raise ConfigError(f"vision_tower has {len(self.layers)} layers, not 1 to {_MAX_LAYERS}")
        self.shapes()

    def shapes(self) -> list[MapShape]:
        """Of every map: of the photo, then of each layer. Raises ConfigError for layers that do not fit together."""
        found = [MapShape(self.image_size, 3)]
        for i, layer in enumerate(self.layers, 1):
            try:
                found.append(_shape_after(layer, found))
                if layer.op == "concat" and any(self.map_scale(k)[1] != layer.zero for k in layer.inputs):
                    raise ConfigError("the maps that it joins have other zero points than its own")
            except ConfigError as error:
                raise ConfigError(f"vision_tower layer {i} ({layer.op}): {error}") from None
        return found

    @property
    def grid(self) -> int:
        """Patches per side of the output."""
        return self.shapes()[-1].side

    @property
    def out_dim(self) -> int:
        """D_v, the features of a patch."""
        return self.shapes()[-1].channels

    def stored_as(self, rows: int, columns: int) -> str:
        """How the file holds a kernel of this shape."""
        return "int8" if rows * columns < self.int8_below else self.weights

    def map_scale(self, i: int) -> tuple[float, int]:
        """(scale, zero) of map i."""
        return (self.layers[i - 1].scale, self.layers[i - 1].zero) if i else (self.scale, self.zero)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConvTowerConfig:
        """From parsed JSON. Raises ConfigError for unknown keys, wrong types, values out of range, with the layer."""
        values = {"int8_below": 0, **values}  # files of before have none
        need_keys("vision_tower", values, _TOWER_KEYS)
        need_choice("kind", values["kind"], ("conv",))
        layers = values["layers"]
        if not isinstance(layers, (list, tuple)):
            raise ConfigError(f"vision_tower layers must be a list, not {layers!r:.80}")
        if len(layers) > _MAX_LAYERS:
            raise ConfigError(f"vision_tower has {len(layers)} layers, not 1 to {_MAX_LAYERS}")
        read = []
        for i, layer in enumerate(layers, 1):
            try:
                read.append(_layer(layer))
            except ConfigError as error:
                raise ConfigError(f"vision_tower layer {i}: {error}") from None
        rest = {key: values[key] for key in _TOWER_KEYS if key != "layers"}
        return cls(layers=tuple(read), **rest)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        values = {key: getattr(self, key) for key in _TOWER_KEYS if key != "layers"}
        return {**values, "layers": [layer.to_dict() for layer in self.layers]}


def _layer(values: Any) -> ConvLayer:
    if not isinstance(values, Mapping) or "op" not in values:
        raise ConfigError(f"must be an object with an 'op', not {values!r:.80}")
    op = values["op"]
    need_choice("op", op, OPS)
    need_keys(op, values, _KEYS[op])
    rest = {key: values[key] for key in _KEYS[op] if key not in ("op", "from")}
    for key in ("from", "pad"):
        if key in values and not isinstance(values[key], (list, tuple)):
            raise ConfigError(f"{key} must be a list, not {values[key]!r:.80}")
    if "pad" in rest:
        rest["pad"] = tuple(rest["pad"])
    return ConvLayer(op=op, inputs=tuple(values["from"]), **rest)


def _shape_after(layer: ConvLayer, maps: list[MapShape]) -> MapShape:
    need_choice("op", layer.op, OPS)
    need_choice("activation", layer.activation, ACTIVATIONS)
    need_scale("scale", layer.scale)
    need_whole("zero", layer.zero, 0, 255)
    wanted = 2 if layer.op in ("add", "concat") else 1
    if len(layer.inputs) != wanted:
        raise ConfigError(f"reads {len(layer.inputs)} maps, not {wanted}")
    for number in layer.inputs:
        need_whole("from", number, 0, len(maps) - 1)
    source = maps[layer.inputs[0]]
    if layer.op == "concat":
        other = maps[layer.inputs[1]]
        if source.side != other.side:
            raise ConfigError(f"joins maps of different sides, {_sizes(source)} and {_sizes(other)}")
        channels = source.channels + other.channels
        need_whole("channels", channels, 1, _MAX_CHANNELS)
        return MapShape(source.side, channels)
    if layer.op == "add":
        if source != maps[layer.inputs[1]]:
            raise ConfigError(f"adds maps of different shapes, {_sizes(source)} and {_sizes(maps[layer.inputs[1]])}")
        return source
    need_whole("kernel", layer.kernel, 1, _MAX_KERNEL)
    need_whole("stride", layer.stride, 1, _MAX_STRIDE)
    if len(layer.pad) != 2:
        raise ConfigError(f"pad must be two numbers, not {list(layer.pad)!r:.80}")
    for pixels in layer.pad:
        need_whole("pad", pixels, 0, layer.kernel - 1)
    channels = source.channels
    if layer.op == "conv":
        need_whole("channels", layer.channels, 1, _MAX_CHANNELS)
        channels = layer.channels
        if (columns := layer.kernel**2 * source.channels) > _MAX_COLUMNS:
            raise ConfigError(f"sums {columns} products, more than {_MAX_COLUMNS}")
    room = source.side + sum(layer.pad) - layer.kernel
    if room < 0:
        raise ConfigError(f"a kernel of {layer.kernel} does not fit a map of {_sizes(source)}")
    return MapShape(room // layer.stride + 1, channels)


def _sizes(shape: MapShape) -> str:
    return f"{shape.side}x{shape.side}x{shape.channels}"
