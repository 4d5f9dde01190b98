"""Pretrained backbones from other projects' files, as integer towers that the engines run."""

from __future__ import annotations

from pathlib import Path

from bitmar.backbone.quantize import quantize
from bitmar.backbone.tflite import read_tflite
from bitmar.core.conv_config import WEIGHTS
from bitmar.core.errors import ConfigError, nearest
from bitmar.core.tower_file import write_tower


def import_backbone(source: str | Path, out: str | Path, *, weights: str = "int8", licence: str | None = None) -> Path:
    """Read a backbone, quantise it and write a tower file; returns `out`.

    weights: how the file stores them (`conv_config.WEIGHTS`). Raises DataError for a missing source, FormatError naming
    the layer for one that is damaged or of an architecture the engine lacks, ConfigError for unknown weights.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"no weights {weights!r}{nearest(weights, WEIGHTS)}: choose from {', '.join(WEIGHTS)}")
    out = Path(out)
    backbone = read_tflite(source)
    config, tensors = quantize(backbone, weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    card = backbone.card | ({"licence": licence} if licence else {})
    write_tower(out, config, tensors, vision=backbone.vision, card=card)
    return out
