"""The architecture's numbers, as data: checked once at construction, never changed after.

The defaults of `ModelConfig` are `bitmar-14m`, the configuration of the paper (section 3 and its appendix).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from bitmar.core.conv_config import ConvTowerConfig
from bitmar.core.errors import ConfigError, nearest, told
from bitmar.core.vit_config import VitTowerConfig

_Config = TypeVar("_Config", bound="ModelConfig | VisionTowerConfig")
_MAX_WIDTH = 1 << 24  # far beyond any sensible model; keeps a hostile file from asking for endless work
_MAX_LAYERS = 256
_MAX_STAGES = 8
_MAX_FLOAT = 1e9


def _int(default: int | None, low: int = 1, high: int = _MAX_WIDTH) -> Any:
    return dataclasses.field(default=default, metadata={"kind": int, "low": low, "high": high})


def _float(default: float, low: float = 0.0, high: float = _MAX_FLOAT) -> Any:
    return dataclasses.field(default=default, metadata={"kind": float, "low": low, "high": high})


def _ints(default: tuple[int, ...], high: int) -> Any:
    return dataclasses.field(default=default, metadata={"kind": tuple, "low": 1, "high": high})


def _choice(default: str, *others: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": str, "choices": (default, *others)})


@dataclass(frozen=True, slots=True)
class VisionTowerConfig:
    """`bitvit`: a convolutional stem, then stages of ternary transformer blocks, each at half the side.

    Its output stands where a teacher's patch features stood.
    """

    image_size: int = _int(224)  # pixels per side
    stem_channels: tuple[int, ...] = _ints((48, 96), high=4096)  # of the maps at 1/4 and 1/8 of the side
    stem_blocks: int = _int(1, low=0, high=64)  # residual blocks on the second map
    bottlenecks: tuple[int, ...] = _ints((48, 96, 192), high=1 << 16)  # channels that each stage and the head read
    widths: tuple[int, ...] = _ints((192, 384), high=1 << 16)  # of the stages, from 1/16 of the side on
    depths: tuple[int, ...] = _ints((4, 4), high=_MAX_LAYERS)
    head_dim: int = _int(64)
    mlp_ratio: int = _int(4, high=64)
    activation: str = _choice("relu2", "gelu")
    out_dim: int = _int(1280)  # D_v, the teacher's feature width
    out_activation: str = _choice("relu", "none")  # relu for a teacher whose features are never negative
    norm_eps: float = _float(1e-6)

    def __post_init__(self) -> None:
        _check_fields(self)
        if len(self.stem_channels) != 2:
            raise ConfigError(f"stem_channels needs two widths, not {list(self.stem_channels)}")
        if not len(self.widths) == len(self.depths) == len(self.bottlenecks) - 1:
            raise ConfigError("depths needs one number for each of widths, and bottlenecks one more, for the head")
        for width in self.widths:
            if width % self.head_dim:
                raise ConfigError(f"widths must be multiples of head_dim {self.head_dim}, not {width}")
        if self.image_size % self.stride:
            raise ConfigError(f"image_size {self.image_size} must be a multiple of {self.stride}, the stride")

    @property
    def kind(self) -> str:
        """Which of the towers this is."""
        return "bitvit"

    @property
    def stride(self) -> int:
        """Pixels per side that one patch of the output covers."""
        return 16 << (len(self.widths) - 1)

    @property
    def grid(self) -> int:
        """Patches per side of the output."""
        return self.image_size // self.stride

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionTowerConfig:
        """From parsed JSON or YAML. Raises ConfigError for unknown keys, wrong types, values out of range."""
        return _from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return _to_dict(self)


TowerConfig = VisionTowerConfig | ConvTowerConfig | VitTowerConfig


def tower_from_dict(values: Mapping[str, Any]) -> TowerConfig:
    """A vision tower from parsed JSON or YAML, of the kind that its `kind` names; without one it is a `bitvit`.

    Raises ConfigError for unknown keys, wrong types, values out of range.
    """
    if "kind" in values:
        return imported_from_dict(values)
    return VisionTowerConfig.from_dict(values)


def imported_from_dict(values: Mapping[str, Any]) -> ConvTowerConfig | VitTowerConfig:
    """A tower that was made elsewhere, from parsed JSON."""
    kind = values.get("kind")
    if kind not in ("conv", "vit"):
        raise ConfigError(f"vision_tower kind must be conv or vit, not {kind!r:.80}")
    return ConvTowerConfig.from_dict(values) if kind == "conv" else VitTowerConfig.from_dict(values)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Every number of the network. Lengths are in tokens, widths in features, grids in patches per side."""

    vocab_size: int = _int(50257)
    hidden_size: int = _int(128)
    encoder_layers: int = _int(4, high=_MAX_LAYERS)
    decoder_layers: int = _int(4, high=_MAX_LAYERS)
    num_heads: int = _int(4)
    intermediate_size: int = _int(512)
    activation: str = _choice("relu2", "gelu")  # gelu is the exact one, through erf
    rope_theta: float = _float(10000.0, low=1.0)
    norm_eps: float = _float(1e-6)
    sequence_length: int = _int(256)  # a training row
    attention_sinks: int = _int(4, low=0)
    attention_window: int = _int(1020)

    vision_dim: int = _int(768)  # D_v of the patch features
    vision_grid: int = _int(16)
    vision_pool: int = _int(2)  # side of the average-pooling window; 1 = none
    vision_hidden: int = _int(384)
    dropout: float = _float(0.0, high=1.0)
    vision_dropout: float = _float(0.1, high=1.0)
    concepts: int = _int(0, low=0, high=1 << 16)  # in the bank; 0: no bank
    concept_classes: int = _int(0, low=0, high=1 << 16)  # of the backbone, with keys of their own
    concept_keys: int = _int(0, low=0, high=1 << 16)  # the first concepts, with keys of their own; 0: all
    concept_class_width: int = _int(0, low=0)  # channels that class keys read, the last of vision_dim; 0: all
    concept_evidence: float = _float(0.0, high=16.0)  # weight of concepts on the logits of their words, in decoding
    concept_tokens: int = _int(12, high=256)  # the best concepts become vision tokens
    query_pooling: str = _choice("mean", "learned")

    memory_slots: int = _int(512)
    memory_dim: int = _int(128)
    memory_alpha: float = _float(0.2, high=1.0)
    memory_decay: float = _float(0.99, high=1.0)
    memory_segment: int = _int(256)  # tokens between two writes
    write_rule: str = _choice("address", "literal")  # literal: eq 1 of the paper unchanged
    memory_integration: str = _choice("per_layer", "add", "concat", "off")
    memory_gate_init: float = _float(0.1, low=-_MAX_FLOAT)

    quantization: str = _choice("ternary", "none")
    bos_token_id: int = _int(50256, low=0)
    eos_token_id: int = _int(50256, low=0)
    pad_token_id: int = _int(50256, low=0)
    image_token_id: int | None = _int(None, low=0)
    vision_tower: TowerConfig | None = dataclasses.field(
        default=None, metadata={"kind": TowerConfig}
    )  # None: the patch features come from outside

    def __post_init__(self) -> None:
        _check_fields(self)
        _check_divides(self, "hidden_size", "num_heads")
        if self.hidden_size // self.num_heads % 2:
            raise ConfigError("hidden_size / num_heads must be even: rotary positions turn pairs of features")
        if self.vision_pool > self.vision_grid:
            raise ConfigError(f"vision_pool {self.vision_pool} exceeds vision_grid {self.vision_grid}")
        if self.concept_keys > self.concepts or self.concept_class_width > self.vision_dim:
            raise ConfigError("concept_keys exceeds concepts, or concept_class_width exceeds vision_dim")
        if self.concepts and self.concept_tokens > self.concepts:
            raise ConfigError(f"concept_tokens {self.concept_tokens} exceeds the {self.concepts} concepts of the bank")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"):
            token = getattr(self, name)
            if token is not None and token >= self.vocab_size:
                raise ConfigError(f"{name} {token} is outside the vocabulary of {self.vocab_size}")
        tower = self.vision_tower
        if tower and (tower.grid, tower.out_dim) != (self.vision_grid, self.vision_dim):
            raise ConfigError(
                f"vision_tower gives {tower.grid}x{tower.grid} patches of {tower.out_dim}; vision_grid "
                f"and vision_dim ask for {self.vision_grid}x{self.vision_grid} of {self.vision_dim}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """From parsed JSON or YAML. Raises ConfigError for unknown keys, wrong types, values out of range."""
        return _from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return _to_dict(self)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def vision_tokens(self) -> int:
        """N, the vision tokens after pooling (a partial window at the edge counts as one) and those of concepts."""
        return math.ceil(self.vision_grid / self.vision_pool) ** 2 + (self.concept_tokens if self.concepts else 0)


def _from_dict(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__} needs a mapping of names to values, not {type(values).__name__}")
    known = {field.name for field in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown {cls.__name__} key {key!r}{nearest(str(key), known)}")
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key == "vision_tower" and isinstance(value, Mapping):
            value = tower_from_dict(value)
        arguments[key] = tuple(value) if isinstance(value, list) else value  # JSON and YAML have no tuples
    return cls(**arguments)


def _to_dict(config: ModelConfig | VisionTowerConfig) -> dict[str, Any]:
    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in items}

    values = dataclasses.asdict(config, dict_factory=plain)
    if isinstance(config, ModelConfig) and config.vision_tower:
        values["vision_tower"] = config.vision_tower.to_dict()
    return values


def _check_fields(config: ModelConfig | VisionTowerConfig) -> None:
    for field in dataclasses.fields(config):
        name, value, kind = field.name, getattr(config, field.name), field.metadata["kind"]
        if value is None and field.default is None:
            continue
        accepted = (float, int) if kind is float else get_args(kind) or (kind,)  # YAML writes `dropout: 0`
        if type(value) not in accepted:  # exact, because True is no number of layers
            raise ConfigError(f"{name} must be {_kind_name(kind)}, not {told(value)}")
        if kind in (int, float):
            _check_range(name, value, field.metadata["low"], field.metadata["high"])
        elif kind is str and value not in field.metadata["choices"]:
            choices = field.metadata["choices"]
            hint = nearest(value, choices)
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {told(value)}{hint}")
        elif kind is tuple:
            if not 0 < len(value) <= _MAX_STAGES or any(type(item) is not int for item in value):
                raise ConfigError(f"{name} must be a list of whole numbers, not {told(value)}")
            for item in value:
                _check_range(name, item, field.metadata["low"], field.metadata["high"])
        if kind is float:
            object.__setattr__(config, name, float(value))  # the one write to a frozen instance


def _kind_name(kind: Any) -> str:
    return "a vision tower" if kind is TowerConfig else kind.__name__


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also false for NaN
        raise ConfigError(f"{name} must lie between {low} and {high}, not {told(value)}")


def _check_divides(config: ModelConfig | VisionTowerConfig, whole: str, parts: str) -> None:
    if getattr(config, whole) % getattr(config, parts):
        raise ConfigError(f"{whole} {getattr(config, whole)} must be a multiple of {parts} {getattr(config, parts)}")
