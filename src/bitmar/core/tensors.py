"""Which tensors a `.bitmar` file of a given configuration holds: names as in the checkpoint, types, shapes.

Only what inference needs is there: the contrastive temperature is left out, and each batch norm of the tower
is folded into one factor (`norm.weight`) and one offset (`norm.bias`) per channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.conv_weights import tensor_shapes
from bitmar.core.vit_config import VitTowerConfig

Shape = tuple[int, ...]

EMBEDDING = "model.embed_tokens.weight"  # int8, with one scale a row under `scale_name(EMBEDDING)`

CONCEPTS = "model.concepts"  # the concept bank; its keys are int8 with one scale a row
CONFIDENCE = "confidence.weights"
EVIDENCE = 7  # weights of what speaks for a caption (`runtime.confidence`)
WORD_IDS = 6  # token ids of a concept's word, at most

BACKGROUND_MEAN, BACKGROUND_PROJECT, BACKGROUND_STRANGERS = (
    f"recall.{part}" for part in ("mean", "project.weight", "strangers")
)
BACKGROUND_WHITEN = "recall.whiten"  # of files made before recall went by the tower's features
STRANGERS = 11  # resemblances that one strange photo in 1, 10^0.5, 10, ... 10^5 exceeds


class TensorSpec(NamedTuple):
    """Type, as safetensors names it, and shape."""

    dtype: str
    shape: Shape


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Every tensor of a `.bitmar` file, by name; a file with others beside or instead is refused."""
    expected = {
        EMBEDDING: TensorSpec("I8", (config.vocab_size, config.hidden_size)),
        scale_name(EMBEDDING): TensorSpec("F32", (config.vocab_size, 1)),
    }
    for name, (out_features, in_features) in linear_shapes(config).items():
        if is_packed(name, config):
            expected[name] = TensorSpec("U8", (out_features, -(-in_features // 4)))
            expected[scale_name(name)] = TensorSpec("F32", (1,))
        else:
            expected[name] = TensorSpec("F32", (out_features, in_features))
    for name, shape in _float_shapes(config):
        expected[name] = TensorSpec("F32", shape)
    expected |= _concept_tensors(config)
    if isinstance(config.vision_tower, ConvTowerConfig | VitTowerConfig):
        expected |= imported_tensors(config.vision_tower)
    return expected


def _concept_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The bank's keys, words and biases; none without concepts."""
    if not config.concepts:
        return {}
    found: dict[str, TensorSpec] = {}
    own, width = config.concept_keys or config.concepts, config.concept_class_width or config.vision_dim
    sizes = (("keys", "bias", own, config.vision_dim), ("class_keys", "class_bias", config.concept_classes, width))
    for keys, bias, rows, columns in sizes:
        found[f"{CONCEPTS}.{keys}"] = TensorSpec("I8", (rows, columns))
        found[scale_name(f"{CONCEPTS}.{keys}")] = TensorSpec("F32", (rows, 1))
        found[f"{CONCEPTS}.{bias}"] = TensorSpec("F32", (rows,))
    found[f"{CONCEPTS}.values"] = TensorSpec("I8", (config.concepts, config.hidden_size))
    found[scale_name(f"{CONCEPTS}.values")] = TensorSpec("F32", (config.concepts, 1))
    found[f"{CONCEPTS}.class_concepts"] = TensorSpec("I32", (config.concept_classes,))  # -1: none
    found[f"{CONCEPTS}.words"] = TensorSpec("I32", (config.concepts, WORD_IDS))  # token ids, -1: no more
    return found


def imported_tensors(tower: ConvTowerConfig | VitTowerConfig) -> dict[str, TensorSpec]:
    """Every tensor of a tower that was made elsewhere, by name."""
    shapes = tensor_shapes(tower) if isinstance(tower, ConvTowerConfig) else tower.tensor_shapes()
    return {name: TensorSpec(dtype, shape) for name, dtype, shape in shapes}


def background_tensors(config: ModelConfig, names: Iterable[str] = ()) -> dict[str, TensorSpec]:
    """Optional tensors, all or none: the resemblance of unrelated photos (`session.recall.Background`).

    names: of the file's tensors, which tell an earlier form from today's.
    """
    d = config.hidden_size
    if BACKGROUND_WHITEN in names:
        return {
            BACKGROUND_MEAN: TensorSpec("F32", (d,)),
            BACKGROUND_WHITEN: TensorSpec("F32", (d, d)),
            BACKGROUND_STRANGERS: TensorSpec("F32", (STRANGERS,)),
        }
    seen = config.vision_dim
    width = background_width(seen)
    return {
        BACKGROUND_MEAN: TensorSpec("F32", (seen,)),
        BACKGROUND_PROJECT: TensorSpec("I8", (width, seen)),
        scale_name(BACKGROUND_PROJECT): TensorSpec("F32", (width, 1)),
        BACKGROUND_STRANGERS: TensorSpec("F32", (STRANGERS,)),
    }


def confidence_tensors() -> dict[str, TensorSpec]:
    """Optional tensors of a file with concepts: the calibration of its captions' confidence."""
    return {CONFIDENCE: TensorSpec("F32", (EVIDENCE,))}


def background_width(vision_dim: int) -> int:
    """Values of a photo's key."""
    return min(192, vision_dim)


def scale_name(weight: str) -> str:
    """Where the scale of the quantised `weight` is stored."""
    return weight.removesuffix(".weight") + ".scale"


def is_packed(name: str, config: ModelConfig) -> bool:
    """Whether the matrix `name` is stored ternary; `quantization` speaks of the language model alone."""
    return config.quantization == "ternary" or name.startswith("model.vision_tower.")


def linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of every BitLinear and BitConv weight; a convolution's inputs are (channel, row, column)."""
    return dict(_linears(config))


def _linears(config: ModelConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    d, memory = config.hidden_size, config.memory_dim
    per_layer = config.memory_integration == "per_layer"
    for stack, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for i in range(layers):
            block = f"model.{stack}.layers.{i}"
            yield f"{block}.attn.qkv_proj.weight", (3 * d, d)
            yield f"{block}.attn.o_proj.weight", (d, d)
            yield f"{block}.mlp.up_proj.weight", (config.intermediate_size, d)
            yield f"{block}.mlp.down_proj.weight", (d, config.intermediate_size)
            if per_layer and stack == "decoder":
                yield f"{block}.memory_proj.weight", (d, memory)
    yield "model.vision.fc1.weight", (config.vision_hidden, config.vision_dim)
    yield "model.vision.fc2.weight", (d, config.vision_hidden)
    yield "model.fusion.q_proj.weight", (d, d)
    yield "model.fusion.kv_proj.weight", (2 * d, d)
    yield "model.fusion.o_proj.weight", (d, d)
    if config.memory_integration != "off" and d != memory:
        yield "model.memory.query_proj.weight", (memory, d)
    if config.memory_integration in ("add", "concat"):
        yield "model.memory_proj.weight", (d, memory + (d if config.memory_integration == "concat" else 0))
    yield "lm_head.weight", (config.vocab_size, d)
    if isinstance(config.vision_tower, VisionTowerConfig):
        yield from _tower_linears(config.vision_tower)


def _float_shapes(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    d = config.hidden_size
    for stack, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        for i in range(layers):
            block = f"model.{stack}.layers.{i}"
            yield f"{block}.attn_norm.weight", (d,)
            yield f"{block}.mlp_norm.weight", (d,)
            if stack == "decoder" and config.memory_integration == "per_layer":
                yield f"{block}.memory_gate", ()
        yield f"model.{stack}.norm.weight", (d,)
    yield "model.vision.norm.weight", (config.vision_dim,)
    yield "model.fusion.norm.weight", (d,)
    if config.concepts:
        for name in ("strength", "offset"):
            yield f"{CONCEPTS}.{name}", (d,)
        yield f"{CONCEPTS}.prior", (config.concepts,)
    if config.memory_integration != "off":
        yield from _memory_floats(config)
    if isinstance(config.vision_tower, VisionTowerConfig):
        yield from _tower_floats(config.vision_tower)


def _memory_floats(config: ModelConfig) -> Iterator[tuple[str, Shape]]:
    width, slots = config.memory_dim, config.memory_slots
    yield "model.memory.slots", (slots, width)
    yield "model.memory.query_norm.weight", (width,)
    yield "model.memory.read_norm.weight", (width,)
    yield "model.memory.read_beta", ()
    yield "model.memory.stale", ()
    if config.query_pooling == "learned":
        yield "model.memory.pooling", (config.hidden_size,)
    if config.write_rule == "literal":
        yield "model.memory.write_weights", (slots,)
    else:
        yield "model.memory.address", (width, width)
        yield "model.memory.write_beta", ()
        yield "model.memory.protect", ()


def _tower_convolutions(tower: VisionTowerConfig) -> Iterator[tuple[str, int, int]]:
    """(name, out, in channels) of every 3x3 convolution with its norm, in the order of the computation."""
    fine, coarse = tower.stem_channels
    yield "model.vision_tower.stem.0", coarse, fine
    for i in range(2, 2 + tower.stem_blocks):  # 1 is an activation
        yield f"model.vision_tower.stem.{i}.first", coarse, coarse
        yield f"model.vision_tower.stem.{i}.second", coarse, coarse


def _tower_blocks(tower: VisionTowerConfig) -> Iterator[tuple[str, int]]:
    """(name, width) of every transformer block."""
    for stage, (width, depth) in enumerate(zip(tower.widths, tower.depths, strict=True)):
        for i in range(depth):
            yield f"model.vision_tower.stages.{stage}.{i}", width


def _tower_bottlenecks(tower: VisionTowerConfig) -> Iterator[tuple[int, int, int]]:
    """(number, width before, channels) of every bottleneck: one before each stage, one before the head."""
    before = (tower.stem_channels[1], *tower.widths)
    yield from zip(range(len(before)), before, tower.bottlenecks, strict=True)


def _tower_linears(tower: VisionTowerConfig) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, out_channels, in_channels in _tower_convolutions(tower):
        yield f"{name}.conv.weight", (out_channels, 9 * in_channels)
    for block, d in _tower_blocks(tower):
        yield f"{block}.qkv_proj.weight", (3 * d, d)
        yield f"{block}.o_proj.weight", (d, d)
        yield f"{block}.up_proj.weight", (tower.mlp_ratio * d, d)
        yield f"{block}.down_proj.weight", (d, tower.mlp_ratio * d)
    for i, before, channels in _tower_bottlenecks(tower):
        yield f"model.vision_tower.bottlenecks.{i}.proj.weight", (channels, before)
    for i, (channels, width) in enumerate(zip(tower.bottlenecks, tower.widths, strict=False)):
        yield f"model.vision_tower.merges.{i}.proj.weight", (width, 4 * channels)
    yield "model.vision_tower.head.weight", (tower.out_dim, tower.bottlenecks[-1])


def _tower_floats(tower: VisionTowerConfig) -> Iterator[tuple[str, Shape]]:
    fine = tower.stem_channels[0]
    yield "model.vision_tower.embed.weight", (fine, 4 * 4 * 3)  # sees raw pixels, so it is not ternary
    norms = [("model.vision_tower.embed_norm", fine)]
    norms += [(f"{name}.norm", out_channels) for name, out_channels, _ in _tower_convolutions(tower)]
    for norm, channels in norms:
        yield f"{norm}.weight", (channels,)
        yield f"{norm}.bias", (channels,)
    yield "model.vision_tower.position", ((tower.image_size // 16) ** 2, tower.widths[0])
    for block, d in _tower_blocks(tower):
        yield f"{block}.attn_norm.weight", (d,)
        yield f"{block}.mlp_norm.weight", (d,)
    for i, before, _ in _tower_bottlenecks(tower):
        yield f"model.vision_tower.bottlenecks.{i}.norm.weight", (before,)
    yield "model.vision_tower.out_scale", (tower.out_dim,)
    yield "model.vision_tower.out_bias", (tower.out_dim,)
