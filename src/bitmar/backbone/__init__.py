"""Pretrained backbones from other projects' files, as integer towers that the engines run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bitmar.backbone.efficientnet import installed, is_efficientnet, read_efficientnet
from bitmar.backbone.graph import Backbone
from bitmar.backbone.integers import quantize
from bitmar.backbone.pair import side_by_side
from bitmar.backbone.ranges import calibrate, needs_photos
from bitmar.backbone.state_dict import StateDict, read_state_dict
from bitmar.backbone.tflite import read_tflite
from bitmar.backbone.vit import MEAN, STD, is_vit, read_vit
from bitmar.core.conv_config import WEIGHTS
from bitmar.core.errors import ConfigError, FormatError, nearest
from bitmar.core.ternary import U8
from bitmar.core.tower_file import write_tower

Photos = Callable[[int], Iterable[U8]]  # side -> square photos, uint8 (side, side, 3)


def import_backbone(
    source: str,
    out: str | Path,
    *,
    weights: str = "int8",
    size: int | None = None,
    photos: Photos | None = None,
    licence: str | None = None,
) -> Path:
    """Read a backbone, quantise it and write a tower file; returns `out`.

    source: a .tflite file, `efficientnet-lite:0` to `4`, a state dict of one or of a vision transformer, or two
    convolution nets as FIRST+SECOND, whose features then lie side by side. weights: how the file stores them
    (`conv_config.WEIGHTS`). size: pixels per side, where the source leaves that open. photos: to calibrate a
    convolution net of floats. Raises DataError for a missing source, FormatError naming the layer for one that is
    damaged or of an architecture the engine lacks, ConfigError.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"no weights {weights!r}{nearest(weights, WEIGHTS)}: choose from {', '.join(WEIGHTS)}")
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    stated = {"licence": licence} if licence else {}
    if (found := _transformer(source)) is not None:
        config, tensors, card = read_vit(Path(source), found, size)
        if weights != "int8":
            raise ConfigError(f"a vision transformer is stored as int8, not as {weights}")
        vision = {"size": config.image_size, "resize": "squash", "mean": list(MEAN), "std": list(STD)}
        write_tower(out, config, tensors, vision=vision, card=card | stated)
        return out
    parts = [_read(part, size) for part in source.split("+")]
    if len(parts) > 2:
        raise ConfigError(f"{source} names {len(parts)} backbones; two can lie side by side")
    for part, backbone in zip(source.split("+"), parts, strict=True):
        if needs_photos(backbone):
            if photos is None:
                raise ConfigError(f"{part} holds floats: give photos to find its maps' ranges (--calibrate SHARDS)")
            calibrate(backbone, photos(backbone.image_size))
    backbone = side_by_side(*parts) if len(parts) == 2 else parts[0]
    try:
        conv, kernels = quantize(backbone, weights)
    except FormatError as error:
        raise FormatError(f"{source}: {error}") from None
    write_tower(out, conv, kernels, vision=backbone.vision, card=backbone.card | stated)
    return out


def _transformer(source: str) -> StateDict | None:
    """The state dict of a vision transformer, if `source` is one."""
    if "+" in source or ":" in source or source.endswith(".tflite"):
        return None
    weights = read_state_dict(Path(source))
    return weights if is_vit(weights) else None


def _read(source: str, size: int | None) -> Backbone:
    kind, _, number = source.partition(":")
    if source.endswith(".tflite"):
        backbone = read_tflite(source)
        if size not in (None, backbone.image_size):
            raise ConfigError(f"{source} takes photos of {backbone.image_size} pixels, not {size}")
        return backbone
    path = installed(number) if kind == "efficientnet-lite" else Path(source)
    weights = read_state_dict(path)
    if is_vit(weights):
        raise ConfigError(f"{source} is a vision transformer; those stand alone, not side by side")
    if not is_efficientnet(weights):
        known = "EfficientNet-Lite ('_conv_stem.weight') or a vision transformer ('patch_embed.proj.weight')"
        raise FormatError(f"{source}: neither {known}; its first tensors are {weights.names()[:3]}")
    return read_efficientnet(path, weights, size)
