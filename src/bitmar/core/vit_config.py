"""A pretrained vision transformer (Dosovitskiy et al. 2020, arXiv 2010.11929) as a tower: its numbers, its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from bitmar.core.errors import ConfigError
from bitmar.core.tower_fields import need_choice, need_keys, need_scale, need_whole

_PREFIX = "model.vision_tower."


@dataclass(frozen=True, slots=True)
class VitTowerConfig:
    """`vit`: pre-norm blocks with LayerNorm and GELU over patches and `prefix` further tokens, which are dropped last.

    Such as DINOv2 (arXiv 2304.07193): its class token is the prefix, its LayerScale is folded into the weights.
    """

    image_size: int
    patch: int  # pixels per side
    width: int
    depth: int
    heads: int
    hidden: int  # of the feed-forward layers
    prefix: int
    eps: float  # of the norms
    kind: str = "vit"

    def __post_init__(self) -> None:
        need_whole("image_size", self.image_size, 1, 4096)
        need_whole("patch", self.patch, 1, 64)
        need_whole("width", self.width, 1, 8192)
        need_whole("depth", self.depth, 1, 256)
        need_whole("heads", self.heads, 1, 256)
        need_whole("hidden", self.hidden, 1, 65536)
        need_whole("prefix", self.prefix, 0, 64)
        need_scale("eps", self.eps)
        if self.image_size % self.patch:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of patch {self.patch}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} must be a multiple of heads {self.heads}")

    @property
    def grid(self) -> int:
        """Patches per side of the output."""
        return self.image_size // self.patch

    @property
    def out_dim(self) -> int:
        """D_v, the features of a patch."""
        return self.width

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VitTowerConfig:
        """From parsed JSON. Raises ConfigError for unknown keys, wrong types, values out of range."""
        names = tuple(field.name for field in fields(cls))
        need_keys("vision_tower", values, names)
        need_choice("kind", values["kind"], ("vit",))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def linears(self) -> Iterator[tuple[str, int, int]]:
        """(name, out, in) of every matrix: int8 with one scale a row, and a bias."""
        yield f"{_PREFIX}patch", self.width, 3 * self.patch**2
        for i in range(self.depth):
            name = f"{_PREFIX}layers.{i}"
            yield f"{name}.qkv", 3 * self.width, self.width
            yield f"{name}.out", self.width, self.width
            yield f"{name}.up", self.hidden, self.width
            yield f"{name}.down", self.width, self.hidden

    def norms(self) -> Iterator[str]:
        """The name of every LayerNorm."""
        for i in range(self.depth):
            yield f"{_PREFIX}layers.{i}.norm1"
            yield f"{_PREFIX}layers.{i}.norm2"
        yield f"{_PREFIX}norm"

    def tensor_shapes(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """(name, type, shape) of every tensor in a file."""
        for name, rows, columns in self.linears():
            yield f"{name}.weight", "I8", (rows, columns)
            yield f"{name}.scale", "F32", (rows,)
            yield f"{name}.bias", "F32", (rows,)
        for name in self.norms():
            yield f"{name}.weight", "F32", (self.width,)
            yield f"{name}.bias", "F32", (self.width,)
        yield f"{_PREFIX}position", "F32", (self.grid**2, self.width)
        if self.prefix:
            yield f"{_PREFIX}prefix", "F32", (self.prefix, self.width)
