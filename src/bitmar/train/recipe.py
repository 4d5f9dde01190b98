"""A recipe: one YAML file from raw data to a packed model. Every key is checked; a wrong one names the nearest.

output: runs/default            # everything of this run
cache: runs/data                # tokenised text, decoded photos, features: shared between runs
roots: {BITMAR_DATA: data}      # what $BITMAR_DATA in a path stands for, where the environment does not say
tokenizer: {train: 8192}        # train our own of this size, or {load: gpt2 | FOLDER}
model: {hidden_size: 256}       # any key of ModelConfig
data: {text: ..., captions: ..., photos: ..., validation: ...}
stages:                         # in this order; a finished stage is not run again
  - {name: tower, kind: distill, ...}
  - {name: language, kind: fit, ...}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.errors import ConfigError, nearest
from bitmar.core.paths import expand
from bitmar.data.text import Domain
from bitmar.train.settings import Training, from_mapping

_SET_ELSEWHERE = {
    **dict.fromkeys(
        ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"), "it comes from the tokenizer"
    ),
    "vision_tower": "the top-level key `tower` describes it",
    "quantization": "it is a stage's key",
}


_OF_A_STAGE = "stage:"


def domains(text: dict[str, Any]) -> dict[str, Domain]:
    """The text domains of a recipe by name; ConfigError naming the one that cannot be read."""
    found = {}
    for name, value in text.items():
        try:
            found[name] = Domain.of(value)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"text.{name}: {error}") from None
    return found


@dataclass(frozen=True)
class Data:
    """Where a run reads from.

    text: domain -> `bitmar.data.text.Domain` (path, weight, split, clean). captions: WebDataset patterns with human
    captions; photos: more of them for distillation, captions or not; validation: captioned shards, never trained on.
    heldout: share of the text kept for perplexity. views: stored views per photo when features are extracted,
    the first as it is, the others random: crops of view_area of the photo, colours changed by up to view_colour.
    """

    text: dict[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    heldout: float = 0.01
    views: int = 8
    view_area: tuple[float, float] = (0.35, 1.0)
    view_colour: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.heldout < 1:
            raise ConfigError(f"heldout is a share of the text, at least 0 and below 1, not {self.heldout}")
        if self.views < 1:
            raise ConfigError(f"views must be at least 1, not {self.views}")
        if not 0 < self.view_area[0] <= self.view_area[1] <= 1:
            raise ConfigError(f"view_area is [least, most], shares of a photo, not {list(self.view_area)}")
        domains(self.text)


@dataclass(frozen=True)
class Tokenizer:
    """train: vocabulary size of an own byte-level BPE; load: Hub name or folder of an existing one."""

    train: int | None = None
    load: str | None = None

    def __post_init__(self) -> None:
        if (self.train is None) == (self.load is None):
            raise ConfigError("give either `train: SIZE` or `load: NAME_OR_FOLDER`")


@dataclass(frozen=True)
class Fit:
    """A stage that trains the model.

    pictures: "features" (a teacher's, extracted once), "photos" (through the built-in tower, trained along) or "none".
    captions, text: shards in place of data.captions, domains in place of data.text. tower: the teacher for features;
    tower_from: an earlier stage, of distillation or on photos, whose tower the model gets. start: an earlier fit stage,
    or a checkpoint folder, to start from. text_share: share of predicted tokens that come from plain text. text_rows,
    caption_rows: rows of a batch; caption_length: most tokens of one. episodes: rows that form one memory chain, of
    which a share `revisit` shows an image again, of those a share `repeat` with the same caption and a share `hidden`
    without the picture; photo_questions: share of the rows with a question in place of a caption. one_shot: episodes
    are written as a session writes them, each whole into a slot of its own, and not by the write rule.
    contrastive, memory: weights of L_cm and L_mem. tower_rate, memory_rate: factors on the learning rates of the tower
    and of the memory with its gates; at 0 they stand still. objective: "likelihood" of the captions, or "cider" of
    `samples` captions that the model draws for each picture (`self_critical`; the tower then stands still). reward:
    weight of that loss, for stages that mix text in. controller: the paper's adaptive controller. evaluate_every: in
    steps, at the next log.
    """

    name: str
    training: Training
    kind: str = "fit"
    pictures: str = "features"
    captions: tuple[str, ...] = ()
    text: dict[str, Any] = field(default_factory=dict)
    tower: str | None = None
    tower_from: str | None = None
    start: str | None = None
    text_share: float = 0.5
    text_rows: int = 8
    caption_rows: int = 64
    caption_length: int = 40
    episodes: int = 1
    revisit: float = 0.5
    repeat: float = 0.0
    hidden: float = 0.0
    photo_questions: float = 0.0
    one_shot: bool = False
    contrastive: float = 1.5
    memory: float = 0.1
    dropout: float | None = None
    vision_dropout: float | None = None
    tower_rate: float = 1.0
    memory_rate: float = 1.0
    objective: str = "likelihood"
    samples: int = 5
    reward: float = 1.0
    controller: bool = False
    evaluate_every: int = 500
    quantization: str = "ternary"

    def __post_init__(self) -> None:
        if self.pictures not in ("features", "photos", "none"):
            known = ("features", "photos", "none")
            raise ConfigError(
                f"pictures is features, photos or none, not {self.pictures!r}{nearest(self.pictures, known)}"
            )
        if self.objective not in ("likelihood", "cider"):
            hint = nearest(self.objective, ("likelihood", "cider"))
            raise ConfigError(f"objective is likelihood or cider, not {self.objective!r}{hint}")
        if self.objective == "cider" and (self.pictures == "none" or self.samples < 2):
            raise ConfigError("objective: cider needs pictures, and at least 2 samples of each to compare")
        if self.pictures == "features" and self.tower is None:
            raise ConfigError("pictures: features needs the teacher's name in `tower`")
        for name in ("text_share", "revisit", "repeat", "hidden", "photo_questions"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is between 0 and 1, not {getattr(self, name)}")
        for name in ("text_rows", "caption_rows", "episodes", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        domains(self.text)
        if self.caption_length < 3:
            raise ConfigError(f"caption_length must hold BOS, a token and EOS, not only {self.caption_length}")
        if self.caption_rows % self.episodes:
            raise ConfigError(f"caption_rows {self.caption_rows} must be a multiple of episodes {self.episodes}")


@dataclass(frozen=True)
class DistillWeights:
    """Weights of the terms: patches, their mean, class probabilities, intermediate maps."""

    features: float = 1.0
    pooled: float = 0.5
    classes: float = 1.0
    maps: float = 1.0


@dataclass(frozen=True)
class Distill:
    """A stage that trains the vision tower on a teacher.

    area: share of a photo that a crop covers. weights: of the loss terms (`DistillWeights`). alone_from: share of the
    steps after which no stage reads the teacher's maps any more.
    """

    name: str
    teacher: str
    training: Training
    kind: str = "distill"
    rows: int = 32
    area: tuple[float, float] = (0.25, 1.0)
    alone_from: float = 0.6
    weights: DistillWeights = field(default_factory=DistillWeights)

    def __post_init__(self) -> None:
        kind, _, path = self.teacher.partition(":")
        if kind not in ("litert", "litert-torch") or not path:
            raise ConfigError(f"the teacher of a distillation is litert:FILE.tflite, not {self.teacher!r}")
        if self.rows < 1:
            raise ConfigError(f"rows must be at least 1, not {self.rows}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"area is [least, most], shares of a photo, not {list(self.area)}")
        if not 0 <= self.alone_from <= 1:
            raise ConfigError(f"alone_from is a share of the steps between 0 and 1, not {self.alone_from}")


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
        """The network of one stage; `ids` are the tokenizer's size and special tokens.

        A recipe with a tower has its feature sizes in every stage, so that one stage can start from another.
        """
        tower = None if self.tower is None else VisionTowerConfig.from_dict(self.tower)
        values: dict[str, Any] = {}
        if tower is not None:
            values |= {"vision_grid": tower.grid, "vision_dim": tower.out_dim}
        values |= {**self.model, **ids, "quantization": stage.quantization}
        for name in ("dropout", "vision_dropout"):
            if getattr(stage, name) is not None:
                values[name] = getattr(stage, name)
        if tower is not None and stage.pictures == "photos":
            values["vision_tower"] = tower.to_dict()
        return ModelConfig.from_dict(values)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        overrides: `a.b.0.c=value` assignments, values in YAML, applied before anything is checked.
    Raises:
        ConfigError: the file cannot be read, is no YAML, or has a key or a value that makes no sense.
    """
    from bitmar.train.strict_yaml import parse_yaml

    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror or error}") from None
    except ValueError as error:  # not UTF-8 is one
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values")
    for assignment in overrides:
        _assign(values, assignment)
    values = _with_roots(values, str(path))
    stages = values.get("stages")
    if not isinstance(stages, list) or not stages:
        raise ConfigError(f"{path}: `stages` is empty; there is nothing to do")
    if "path" in values:
        raise ConfigError(f"{path}: unknown key 'path'")  # a field of `Recipe`, but not a user's
    stages = [_stage(stage, f"{path}: stages.{i}") for i, stage in enumerate(stages)]
    recipe: Recipe = replace(from_mapping(Recipe, {**values, "stages": stages}, str(path)), path=str(path))
    try:
        _check(recipe)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return replace(recipe, stages=tuple(_with_tower(stage, recipe) for stage in recipe.stages))


def _with_roots(values: dict[str, Any], path: str) -> dict[str, Any]:
    """The recipe without `roots`, its paths filled in."""
    roots = values.pop("roots", None) or {}
    if not isinstance(roots, dict) or not all(isinstance(text, str) for pair in roots.items() for text in pair):
        raise ConfigError(f"{path}: roots: a mapping of names to folders, not {roots!r:.60}")
    try:
        filled: dict[str, Any] = expand(values, roots)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return filled


def _with_tower(stage: Fit | Distill, recipe: Recipe) -> Fit | Distill:
    """`tower: stage:NAME` as the packed model of that stage."""
    if not isinstance(stage, Fit) or not (stage.tower or "").startswith(_OF_A_STAGE):
        return stage
    name = str(stage.tower).removeprefix(_OF_A_STAGE)
    return replace(stage, tower=f"bitmar:{Path(recipe.output) / name / 'model.bitmar'}")


def _stage(values: Any, where: str) -> Fit | Distill:
    kinds = {"fit": Fit, "distill": Distill}
    kind = values.get("kind") if isinstance(values, dict) else values
    if not isinstance(values, dict) or not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{where}: kind must be fit or distill, not {kind!r:.60}{nearest(str(kind), kinds)}")
    stage: Fit | Distill = from_mapping(kinds[kind], values, f"{where} ({values.get('name', 'no name')})")
    return stage


def _check(recipe: Recipe) -> None:
    """What no part of the recipe sees alone: that stages lead to each other, and that the networks can be built."""
    for key in recipe.model:
        if key in _SET_ELSEWHERE:
            raise ConfigError(f"model.{key} is not set here: {_SET_ELSEWHERE[key]}")
    ModelConfig.from_dict(recipe.model)
    if recipe.tower is not None:
        VisionTowerConfig.from_dict(recipe.tower)
    seen: dict[str, Fit | Distill] = {}
    for stage in recipe.stages:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", stage.name):
            raise ConfigError(f"a stage's name is a folder's: letters, digits, _ . and -, not {stage.name!r}")
        if stage.name in seen:
            raise ConfigError(f"two stages are called {stage.name!r}")
        if isinstance(stage, Fit):
            _check_fit(stage, recipe, seen)
        elif recipe.tower is None:
            raise ConfigError(f"stage {stage.name}: distillation needs the top-level key `tower`")
        seen[stage.name] = stage


def _check_fit(stage: Fit, recipe: Recipe, seen: dict[str, Fit | Distill]) -> None:
    on_photos = [name for name, past in seen.items() if isinstance(past, Fit) and past.pictures == "photos"]
    if (stage.tower or "").startswith(_OF_A_STAGE):
        name = str(stage.tower).removeprefix(_OF_A_STAGE)
        if name not in on_photos:
            hint = nearest(name, on_photos)
            raise ConfigError(f"stage {stage.name}: tower: {name!r} is no earlier stage on photos{hint}")
    with_tower = on_photos + [name for name, past in seen.items() if isinstance(past, Distill)]
    if stage.tower_from and stage.tower_from not in with_tower:
        hint = nearest(stage.tower_from, with_tower)
        raise ConfigError(f"stage {stage.name}: tower_from {stage.tower_from!r} is no earlier stage with a tower{hint}")
    if stage.tower_from and stage.pictures != "photos":
        raise ConfigError(f"stage {stage.name}: tower_from is for pictures: photos, not for pictures: {stage.pictures}")
    start = seen.get(stage.start or "")
    if stage.start and not isinstance(start, Fit) and (start or not Path(stage.start).is_dir()):
        hint = nearest(stage.start, [name for name, earlier in seen.items() if isinstance(earlier, Fit)])
        raise ConfigError(f"stage {stage.name}: start {stage.start!r} is no earlier fit stage and no folder{hint}")
    if stage.pictures == "photos" and recipe.tower is None:
        raise ConfigError(f"stage {stage.name}: pictures: photos needs the top-level key `tower`")
    try:
        recipe.model_config(stage)
    except ConfigError as error:
        raise ConfigError(f"stage {stage.name}: {error}") from None


def _assign(values: dict[str, Any], assignment: str) -> None:
    """Carries out `a.b.0.c=value`; what is missing on the way is made."""
    from bitmar.train.strict_yaml import parse_yaml

    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set needs KEY=VALUE, found {assignment!r}")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise ConfigError(f"--set {assignment:.200}: {text!r:.80} is not valid YAML") from None
    *parents, last = key.split(".")
    node: Any = values
    for name in parents:
        place = _place(node, name, assignment)
        if isinstance(node, dict) and node.get(place) is None:
            node[place] = {}
        node = node[place]
    node[_place(node, last, assignment)] = value


def _place(node: Any, name: str, assignment: str) -> Any:
    """Where `name` is in a mapping (its key) or in a list (its position; a stage can also be called by its name)."""
    if isinstance(node, dict):
        return name
    if not isinstance(node, list):
        raise ConfigError(f"--set {assignment}: there is no key {name!r} in {node!r:.60}")
    names = [str(item.get("name")) if isinstance(item, dict) else "" for item in node]
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(node):
        return int(name)
    raise ConfigError(f"--set {assignment}: no item {name!r} in a list of {len(node)}{nearest(name, names)}")
