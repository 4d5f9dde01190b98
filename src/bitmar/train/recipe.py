"""A recipe: one YAML file from raw data to a packed model. Every key is checked; a wrong one names the nearest.

output: runs/default            # everything of this run
cache: runs/data                # tokenised text, decoded photos, features: shared between runs
checkpoints: s3://bucket/run    # a copy of output, by which machines without a common disk train together
roots: {BITMAR_DATA: data}      # what $BITMAR_DATA in a path stands for, where the environment does not say
tokenizer: {train: 8192}        # train our own of this size, or {load: gpt2 | FOLDER}
model: {hidden_size: 256}       # any key of ModelConfig
data: {text: ..., captions: ..., photos: ..., validation: ...}
defaults: {training: {clip: 1}} # keys that stages need not repeat; each takes those that it has
stages:                         # in this order; a finished stage is not run again
  - {name: tower, kind: distill, ...}
  - {name: language, kind: fit, ...}
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bitmar.core.config import ModelConfig, VisionTowerConfig
from bitmar.core.errors import ConfigError, nearest
from bitmar.core.paths import expand
from bitmar.train.settings import check_ranges, from_mapping
from bitmar.train.stages import Concepts, Distill, Fit, Stage, domains

_SET_ELSEWHERE = {
    **dict.fromkeys(
        ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "image_token_id"), "it comes from the tokenizer"
    ),
    "vision_tower": "the top-level key `tower` describes it",
    "quantization": "it is a stage's key",
    **dict.fromkeys(
        ("concepts", "concept_classes", "concept_keys", "concept_class_width", "concept_tokens"),
        "a stage of kind concepts finds it",
    ),
}


_OF_A_STAGE = "stage:"
PACKED = ".bitmar"


@dataclass(frozen=True)
class Data:
    """Where a run reads from.

    text: domain -> `bitmar.data.text.Domain` (path, weight, split, clean). captions: WebDataset patterns with human
    captions; photos: more of them for distillation, captions or not; validation: captioned shards, never trained on.
    labelled: shards of photos with a label and perhaps boxes; plain: of photos alone; tagged: text files of captions
    without photos, one a line, and of questions (`question : ... answer : ...`). heldout: share of the text, and
    without validation of the captioned photos, kept for perplexity. views: stored views per photo when features are
    extracted, the first as it is, the others random: crops of view_area of the photo, colours changed by up to
    view_colour; labelled_views, plain_views: those of such photos.
    """

    text: dict[str, Any] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    labelled: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    tagged: tuple[str, ...] = ()
    heldout: float = 0.01
    views: int = 8
    labelled_views: int = 3
    plain_views: int = 2
    view_area: tuple[float, float] = (0.35, 1.0)
    view_colour: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.heldout < 1:
            raise ConfigError(f"heldout is a share of the data, at least 0 and below 1, not {self.heldout}")
        check_ranges(self, views=(1, 1024), labelled_views=(1, 1024), plain_views=(1, 1024), view_colour=(0, 1))
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
        if self.train is not None and not 260 <= self.train <= 1 << 20:
            raise ConfigError(f"train is the size of a byte-level vocabulary, 260 to {1 << 20:,}, not {self.train:,}")


@dataclass(frozen=True)
class Recipe:
    output: str
    tokenizer: Tokenizer
    data: Data
    stages: tuple[Stage, ...]
    model: dict[str, Any] = field(default_factory=dict)
    tower: dict[str, Any] | None = None
    card: dict[str, Any] = field(default_factory=dict)
    cache: str = "runs/data"
    checkpoints: str | None = None
    path: str = ""

    def bank_stage(self, name: str) -> Concepts:
        """The stage of concepts that has this name."""
        return next(stage for stage in self.stages if isinstance(stage, Concepts) and stage.name == name)

    def model_config(self, stage: Fit, **ids: int) -> ModelConfig:
        """The network of one stage; `ids` are the tokenizer's size and special tokens, and the sizes of the concepts.

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
    kinds = [_kind(stage, f"{path}: stages.{i}") for i, stage in enumerate(stages)]
    defaults = _defaults(values.pop("defaults", None), kinds, str(path))
    stages = [
        from_mapping(
            kind, _with_defaults(stage, defaults, kind), f"{path}: stages.{i} ({stage.get('name', 'no name')})"
        )
        for i, (stage, kind) in enumerate(zip(stages, kinds, strict=True))
    ]
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


def _with_tower(stage: Stage, recipe: Recipe) -> Stage:
    """`tower: stage:NAME` as the packed model of that stage."""
    if isinstance(stage, Distill) or not (stage.tower or "").startswith(_OF_A_STAGE):
        return stage
    name = str(stage.tower).removeprefix(_OF_A_STAGE)
    return replace(stage, tower=f"bitmar:{Path(recipe.output) / name / 'model.bitmar'}")


def _kind(stage: Any, where: str) -> type[Stage]:
    kinds: dict[str, type[Stage]] = {"fit": Fit, "distill": Distill, "concepts": Concepts}
    kind = stage.get("kind") if isinstance(stage, dict) else stage
    if not isinstance(stage, dict) or not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(
            f"{where}: kind must be fit, distill or concepts, not {kind!r:.60}{nearest(str(kind), kinds)}"
        )
    return kinds[kind]


def _defaults(values: Any, kinds: Sequence[type[Stage]], path: str) -> dict[str, Any]:
    """`defaults`, each key of which some stage has."""
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: defaults: expected a mapping, found {values!r:.60}")
    if not isinstance(training := values.get("training", {}), dict):
        raise ConfigError(f"{path}: defaults: training: expected a mapping, found {training!r:.60}")
    known = {f.name for kind in kinds for f in fields(kind)} - {"name", "kind"}
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: defaults: no stage has the key {key!r}{nearest(str(key), known)}")
    return values


def _with_defaults(stage: dict[str, Any], defaults: dict[str, Any], kind: type[Stage]) -> dict[str, Any]:
    """A stage's own keys go before those of `defaults`; in `training`, one by one."""
    merged = {key: value for key, value in defaults.items() if key in {f.name for f in fields(kind)}} | stage
    own, general = stage.get("training"), defaults.get("training")
    if isinstance(own, dict) and isinstance(general, dict):
        merged["training"] = general | own
    return merged


def _check(recipe: Recipe) -> None:
    """Checks across the recipe: that stages lead to each other, and that the networks can be built."""
    for key in recipe.model:
        if key in _SET_ELSEWHERE:
            raise ConfigError(f"model.{key} is not set here: {_SET_ELSEWHERE[key]}")
    ModelConfig.from_dict(recipe.model)
    if recipe.tower is not None:
        VisionTowerConfig.from_dict(recipe.tower)
    seen: dict[str, Stage] = {}
    for stage in recipe.stages:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", stage.name):
            raise ConfigError(f"a stage's name is a folder's: letters, digits, _ . and -, not {stage.name!r}")
        if stage.name in seen:
            raise ConfigError(f"two stages are called {stage.name!r}")
        if not isinstance(stage, Distill):
            _check_stage_tower(stage, seen)
        if isinstance(stage, Fit):
            _check_fit(stage, recipe, seen)
            _check_sources(stage, recipe, seen)
        elif isinstance(stage, Distill) and recipe.tower is None:
            raise ConfigError(f"stage {stage.name}: distillation needs the top-level key `tower`")
        seen[stage.name] = stage


def _on_photos(seen: dict[str, Stage]) -> list[str]:
    return [name for name, past in seen.items() if isinstance(past, Fit) and past.pictures == "photos"]


def _check_stage_tower(stage: Fit | Concepts, seen: dict[str, Stage]) -> None:
    if (stage.tower or "").startswith(_OF_A_STAGE):
        name = str(stage.tower).removeprefix(_OF_A_STAGE)
        if name not in _on_photos(seen):
            hint = nearest(name, _on_photos(seen))
            raise ConfigError(f"stage {stage.name}: tower: {name!r} is no earlier stage on photos{hint}")


def _check_sources(stage: Fit, recipe: Recipe, seen: dict[str, Stage]) -> None:
    """That what the stage's concepts, mixture and rewards ask for is there."""
    banks = [name for name, past in seen.items() if isinstance(past, Concepts)]
    if stage.concepts is not None and stage.concepts not in banks:
        hint = nearest(stage.concepts, banks)
        raise ConfigError(f"stage {stage.name}: concepts: {stage.concepts!r} is no earlier stage of concepts{hint}")
    bank = seen.get(stage.concepts or "")
    if isinstance(bank, Concepts) and bank.tower != stage.tower:
        raise ConfigError(f"stage {stage.name}: its concepts are of the tower {bank.tower}, not of {stage.tower}")
    if stage.concepts is not None and stage.captions:
        raise ConfigError(f"stage {stage.name}: with concepts it trains on data.captions, on which they were fitted")
    before = seen.get(stage.start or "")
    if isinstance(before, Fit) and before.concepts not in (None, stage.concepts):
        raise ConfigError(f"stage {stage.name}: starts from {before.name}, so it needs concepts: {before.concepts}")
    for name in stage.sources():
        if name not in ("photos", "chains", "text") and stage.concepts is None:
            raise ConfigError(f"stage {stage.name}: {name} needs the name of a stage of concepts in `concepts`")
        if name in ("labelled", "plain") and not recipe.data.tagged:
            raise ConfigError(f"stage {stage.name}: {name} needs captions to choose from in data.tagged")
        if name not in ("photos", "chains", "text") and not getattr(recipe.data, name):
            raise ConfigError(f"stage {stage.name}: {name} is in its mix, but there is no data.{name}")


def _check_fit(stage: Fit, recipe: Recipe, seen: dict[str, Stage]) -> None:
    on_photos = _on_photos(seen)
    with_tower = on_photos + [name for name, past in seen.items() if isinstance(past, Distill)]
    if stage.tower_from and stage.tower_from not in with_tower:
        hint = nearest(stage.tower_from, with_tower)
        raise ConfigError(f"stage {stage.name}: tower_from {stage.tower_from!r} is no earlier stage with a tower{hint}")
    if stage.tower_from and stage.pictures != "photos":
        raise ConfigError(f"stage {stage.name}: tower_from is for pictures: photos, not for pictures: {stage.pictures}")
    start = seen.get(stage.start or "")
    elsewhere = (stage.start or "").endswith(PACKED) or os.path.isdir(stage.start or "")
    if stage.start and not isinstance(start, Fit) and (start or not elsewhere):
        hint = nearest(stage.start, [name for name, earlier in seen.items() if isinstance(earlier, Fit)])
        raise ConfigError(
            f"stage {stage.name}: start {stage.start!r} is no earlier fit stage, no folder and no FILE{PACKED}{hint}"
        )
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
