"""A recipe: one YAML file from raw data to a packed model. Every key is checked; a wrong one names its nearest neighbour.

    output: runs/default            # everything of this run
    cache: runs/data                # tokenised text, decoded photos, features: shared between runs
    tokenizer: {train: 8192}        # train our own of this size, or {load: gpt2 | FOLDER}
    model: {hidden_size: 256}       # any key of ModelConfig
    data: {text: ..., captions: ..., photos: ..., validation: ...}
    stages:                         # in this order; a finished stage is not run again
      - {name: tower, kind: distill, ...}
      - {name: language, kind: fit, ...}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.errors import ConfigError, nearest
from bitmar.data.text import Domain
from bitmar.train.settings import Training, from_mapping


@dataclass(frozen=True)
class Data:
    """Where a run reads from.

    text: domain -> `bitmar.data.text.Domain` (path, weight, split, clean). captions: WebDataset patterns with human
    captions; photos: more of them for distillation, captions or not; validation: captioned shards that training never sees.
    heldout: share of the text kept for perplexity. views: stored random views per photo when features are extracted.
    """

    text: dict[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    heldout: float = 0.01
    views: int = 8

    def domains(self) -> dict[str, Domain]:
        return {name: Domain.of(value) for name, value in self.text.items()}


@dataclass(frozen=True)
class Tokenizer:
    """train: vocabulary size of an own byte-level BPE; load: Hub name or folder of an existing one."""

    train: int | None = None
    load: str | None = None

    def __post_init__(self) -> None:
        if (self.train is None) == (self.load is None):
            raise ConfigError("tokenizer: give either `train: SIZE` or `load: NAME_OR_FOLDER`")


@dataclass(frozen=True)
class Fit:
    """A stage that trains the model.

    pictures: "features" (a teacher's, extracted once), "photos" (through the built-in tower, trained along) or "none".
    tower: the teacher for features; tower_from: an earlier distill stage whose tower the model gets. start: an earlier fit
    stage, or a checkpoint folder, to start from. text_share: share of predicted tokens that come from plain text.
    episodes: rows that form one memory chain. contrastive, memory: weights of L_cm and L_mem. tower_rate: factor on the tower's
    learning rate. controller: the paper's adaptive controller.
    """

    name: str
    training: dict[str, Any]
    kind: str = "fit"
    pictures: str = "features"
    tower: str | None = None
    tower_from: str | None = None
    start: str | None = None
    text_share: float = 0.5
    text_rows: int = 8
    caption_rows: int = 64
    caption_length: int = 40
    episodes: int = 1
    revisit: float = 0.5
    contrastive: float = 1.5
    memory: float = 0.1
    dropout: float | None = None
    vision_dropout: float | None = None
    tower_rate: float = 1.0
    controller: bool = False
    evaluate_every: int = 500
    quantization: str = "ternary"

    def __post_init__(self) -> None:
        if self.pictures not in ("features", "photos", "none"):
            raise ConfigError(f"stage {self.name}: pictures is features, photos or none, not {self.pictures!r}")
        if self.pictures == "features" and self.tower is None:
            raise ConfigError(f"stage {self.name}: pictures: features needs the teacher's name in `tower`")
        if not 0 <= self.text_share <= 1:
            raise ConfigError(f"stage {self.name}: text_share is between 0 and 1, not {self.text_share!r}")

    @property
    def settings(self) -> Training:
        return from_mapping(Training, self.training, f"stage {self.name}: training")


@dataclass(frozen=True)
class Distill:
    """A stage that trains the vision tower on a teacher. area: share of a photo that a crop covers."""

    name: str
    teacher: str
    training: dict[str, Any]
    kind: str = "distill"
    rows: int = 32
    area: tuple[float, float] = (0.25, 1.0)
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> Training:
        return from_mapping(Training, self.training, f"stage {self.name}: training")


@dataclass(frozen=True)
class Recipe:
    output: str
    tokenizer: Tokenizer
    data: Data
    stages: tuple[Fit | Distill, ...]
    model: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] | None = None
    card: dict[str, Any] = field(default_factory=dict)
    cache: str = "runs/data"
    path: str = ""

    def model_config(self, stage: Fit, **ids: int) -> ModelConfig:
        """The network of one stage; `ids` are the tokenizer's size and special tokens."""
        tower = VisionTowerConfig.from_dict(self.tower) if self.tower and stage.pictures == "photos" else None
        values = {**self.model, **ids, "quantization": stage.quantization}
        for name in ("dropout", "vision_dropout"):
            if getattr(stage, name) is not None:
                values[name] = getattr(stage, name)
        if tower is not None:
            values |= {"vision_tower": tower.to_dict(), "vision_grid": tower.grid, "vision_dim": tower.out_dim}
        return ModelConfig.from_dict(values)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        overrides: `a.b.0.c=value` assignments, values in YAML, applied before anything is checked.
    Raises:
        ConfigError: the file cannot be read, is no YAML, or has a key or a value that makes no sense.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    for assignment in overrides:
        _assign(values, assignment)
    values = {
        **values,
        "tokenizer": from_mapping(Tokenizer, values.get("tokenizer"), "tokenizer"),
        "data": from_mapping(Data, values.get("data"), "data"),
        "stages": [_stage(stage, i) for i, stage in enumerate(values.get("stages") or [])],
        "path": str(path),
    }
    recipe: Recipe = from_mapping(Recipe, values, str(path))
    _check(recipe)
    return recipe


def _stage(values: Any, position: int) -> Fit | Distill:
    where = f"stages[{position}]"
    kinds = {"fit": Fit, "distill": Distill}
    if not isinstance(values, dict) or values.get("kind") not in kinds:
        kind = values.get("kind") if isinstance(values, dict) else values
        raise ConfigError(f"{where}: kind must be fit or distill, not {kind!r}{nearest(str(kind), kinds)}")
    stage: Fit | Distill = from_mapping(kinds[values["kind"]], values, f"{where} ({values.get('name', 'no name')})")
    stage.settings  # noqa: B018  (a misspelt training key must not surface after an hour)
    return stage


def _check(recipe: Recipe) -> None:
    if not recipe.stages:
        raise ConfigError(f"{recipe.path}: `stages` is empty; there is nothing to do")
    seen: dict[str, Fit | Distill] = {}
    for stage in recipe.stages:
        if stage.name in seen:
            raise ConfigError(f"two stages are called {stage.name!r}")
        if isinstance(stage, Fit):
            tower = seen.get(stage.tower_from or "")
            if stage.tower_from and not isinstance(tower, Distill):
                raise ConfigError(f"stage {stage.name}: tower_from {stage.tower_from!r} is no earlier distill stage")
            if stage.start and stage.start not in seen and not Path(stage.start).exists():
                raise ConfigError(f"stage {stage.name}: start {stage.start!r} is no earlier stage and no folder")
            if stage.pictures == "photos" and recipe.tower is None:
                raise ConfigError(f"stage {stage.name}: pictures: photos needs the top-level key `tower`")
            recipe.model_config(stage)
        elif recipe.tower is None:
            raise ConfigError(f"stage {stage.name}: distillation needs the top-level key `tower`")
        seen[stage.name] = stage


def _assign(values: dict[str, Any], assignment: str) -> None:
    import yaml

    key, sign, text = assignment.partition("=")
    if not sign:
        raise ConfigError(f"--set needs KEY=VALUE, found {assignment!r}")
    *parents, last = key.split(".")
    node: Any = values
    try:
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (TypeError, ValueError, IndexError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {assignment}: {error}") from None
