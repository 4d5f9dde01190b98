"""Small good inputs to start from: a whole model in a few kilobytes, and photographs in every format."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.container import write_container
from bitmar.core.tensors import expected_tensors, linear_shapes
from bitmar.core.ternary import pack2

_TOWER: dict[str, Any] = {
    "image_size": 64,
    "stem_channels": (4, 6),
    "bottlenecks": (4, 6, 8),
    "widths": (8, 12),
    "depths": (1, 1),
    "head_dim": 4,
    "mlp_ratio": 2,
    "out_dim": 10,
}
_MODEL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "num_heads": 2,
    "intermediate_size": 18,
    "attention_sinks": 2,
    "attention_window": 5,
    "vision_dim": 10,
    "vision_grid": 2,
    "vision_hidden": 7,
    "memory_slots": 4,
    "memory_dim": 6,
    "memory_segment": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_models(folder: Path) -> None:
    """A few `.bitmar` files of random weights, each with another shape of network."""
    variants: list[dict[str, Any]] = [
        {"vision_tower": VisionTowerConfig(**_TOWER)},
        {"vision_tower": None, "memory_integration": "off"},
        {"vision_tower": None, "memory_integration": "concat", "write_rule": "literal", "activation": "gelu"},
        {"vision_tower": None, "query_pooling": "learned", "vision_pool": 1},
    ]
    for number, changes in enumerate(variants):
        _write_model(folder / f"{number}.bitmar", ModelConfig(**{**_MODEL, **changes}))


def _tokenizer() -> str:
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, "a": 3, "b": 4, "c": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return tokenizer.to_str()


def _write_model(path: Path, config: ModelConfig) -> None:
    rng = np.random.default_rng(0)
    columns = {name: shape[1] for name, shape in linear_shapes(config).items()}
    tensors: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in expected_tensors(config).items():
        if dtype == "U8":
            tensors[name] = pack2(rng.integers(-1, 2, (shape[0], columns[name]), dtype=np.int8))
        elif dtype == "I8":
            tensors[name] = rng.integers(-127, 128, shape, dtype=np.int8)
        else:
            tensors[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32).reshape(shape)
    write_container(
        path,
        tensors,
        config=config,
        tokenizer_json=_tokenizer(),
        vision={
            "size": 64,
            "mean": [0.5] * 3,
            "std": [0.25] * 3,
            "tower": "bitvit" if config.vision_tower else "features",
        },
        card={"licence": "none"},
    )


def write_photos(folder: Path) -> None:
    """Pictures of a few pixels in every format and mode that a camera or a program writes."""
    for name, options, image in _photos():
        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save(file, **options)
        (folder / name).write_bytes(file.getvalue())


def _photos() -> Iterator[tuple[str, dict[str, Any], Image.Image]]:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)
    rgba = Image.fromarray(pixels)
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    yield "turned.jpg", {"format": "JPEG", "exif": exif}, rgb
    yield "progressive.jpg", {"format": "JPEG", "progressive": True}, rgb
    yield "cmyk.jpg", {"format": "JPEG"}, rgb.convert("CMYK")
    yield "grey.jpg", {"format": "JPEG"}, grey
    yield "transparent.png", {"format": "PNG"}, rgba
    yield "palette.png", {"format": "PNG", "transparency": 3}, rgb.quantize(8)
    yield "deep.png", {"format": "PNG"}, Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    yield "black.png", {"format": "PNG"}, grey.convert("1")
    yield "lossy.webp", {"format": "WEBP"}, rgb
    yield "lossless.webp", {"format": "WEBP", "lossless": True}, rgba
    yield "moving.gif", {"format": "GIF", "save_all": True, "append_images": [rgb.quantize(4)]}, rgb.quantize(8)
    yield "plain.bmp", {"format": "BMP"}, rgb
    yield "palette.bmp", {"format": "BMP"}, rgb.quantize(8)
    yield "packed.tiff", {"format": "TIFF", "compression": "tiff_lzw"}, rgb
    yield "plain.tiff", {"format": "TIFF"}, rgba
    yield "float.tiff", {"format": "TIFF"}, Image.fromarray(pixels[..., 0].astype(np.float32))
    yield "plain.ppm", {"format": "PPM"}, rgb
