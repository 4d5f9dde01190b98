"""The stages of a recipe: what each trains, and on what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bitmar.core.errors import ConfigError, nearest
from bitmar.data.caption_batches import Chains
from bitmar.data.text import Domain
from bitmar.train.settings import Training, check_ranges


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
class Mix:
    """Shares of the steps by where a batch comes from.

    photos: captioned ones. chains: captioned ones too, in memory chains and by likelihood, in a stage whose photos are
    rewarded. labelled, plain: photos with captions that are chosen from data.tagged by what is seen in
    them. tagged: captions with tags in place of a photo. text: the domains.
    """

    photos: float = 0.0
    chains: float = 0.0
    labelled: float = 0.0
    plain: float = 0.0
    tagged: float = 0.0
    text: float = 0.0

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ConfigError(f"shares must not be below 0: {vars(self)}")
        if abs(sum(vars(self).values()) - 1) > 0.01:
            raise ConfigError(f"shares must add up to 1, not to {sum(vars(self).values()):.3g}")


@dataclass(frozen=True)
class Rewarded:
    """How often each photo stands among the rewarded ones in an epoch, by kind."""

    photos: int = 1
    labelled: int = 0

    def __post_init__(self) -> None:
        if self.photos < 1 or self.labelled < 0:
            raise ConfigError("photos must be at least 1 and labelled at least 0")


@dataclass(frozen=True)
class Fit:
    """A stage that trains the model.

    pictures: "features" (a teacher's, extracted once), "photos" (through the built-in tower, trained along) or "none".
    captions, text: shards in place of data.captions, domains in place of data.text. tower: the teacher for features;
    tower_from: an earlier stage, of distillation or on photos, whose tower the model gets. start: an earlier fit stage,
    a checkpoint folder or a FILE.bitmar, to start from. text_share: share of predicted tokens that come from plain
    text; mix: in its place, shares of the steps by source (`Mix`). weigh: "tokens", where every predicted token weighs
    the same in the loss, so that text_share is its share too; or "batches", where every batch does, as always with
    `mix`. concepts: the stage whose concepts the model gets; its photos then come with their tags. text_rows,
    caption_rows, further_rows: rows of a batch, the last of labelled, plain and tagged ones; caption_length: most
    tokens of one. episodes: rows that form one memory chain, of which a share `revisit` shows an image again, of those
    a share `repeat` with the same caption and a share `hidden` without the picture; photo_questions, label_questions:
    share of the rows with a question in place of a caption, of captioned and of labelled photos. one_shot: episodes are
    written as a session writes them, each whole into a slot of its own, and not by the write rule. contrastive, memory:
    weights of L_cm and L_mem. tower_rate, memory_rate: factors on the learning rates of the tower and of the memory
    with its gates; at 0 they stand still. objective: "likelihood" of the captions, or "cider" of `samples` captions
    that the model draws for each picture (`self_critical`; the tower then stands still). reward: weight of that loss,
    for stages that mix more in; naming: weight, beside CIDEr, of naming what the references name (`NamingReward`);
    rewarded: which photos (`Rewarded`). controller: the paper's adaptive controller.
    evaluate_every: in steps, at the next log.
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
    weigh: str = "tokens"
    mix: Mix | None = None
    concepts: str | None = None
    text_rows: int = 8
    caption_rows: int = 64
    further_rows: int = 64
    caption_length: int = 40
    episodes: int = 1
    revisit: float = 0.5
    repeat: float = 0.0
    hidden: float = 0.0
    photo_questions: float = 0.0
    label_questions: float = 0.0
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
    naming: float = 0.0
    rewarded: Rewarded | None = None
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
        if self.weigh not in ("tokens", "batches"):
            raise ConfigError(
                f"weigh is tokens or batches, not {self.weigh!r}{nearest(self.weigh, ('tokens', 'batches'))}"
            )
        for name in ("text_share", "revisit", "repeat", "hidden", "photo_questions", "label_questions"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is between 0 and 1, not {getattr(self, name)}")
        check_ranges(self, **dict.fromkeys(("text_rows", "caption_rows", "further_rows", "episodes"), (1, 65_536)))
        check_ranges(self, evaluate_every=(1, 1 << 31), samples=(1, 1024), caption_length=(3, 65_536))
        weights = ("contrastive", "memory", "tower_rate", "memory_rate", "reward", "naming")
        check_ranges(self, **dict.fromkeys(weights, (0, 1e6)))
        if self.concepts is not None and self.pictures != "features":
            raise ConfigError("concepts are found in a teacher's features: they need pictures: features")
        if self.mix is not None and self.pictures == "none" and self.mix.photos:
            raise ConfigError("mix: photos needs pictures")
        if self.naming and (self.objective != "cider" or self.concepts is None):
            raise ConfigError("naming is part of the reward of objective: cider, and names concepts: it needs both")
        if self.objective == "cider" and self.mix is not None and not self.mix.photos:
            raise ConfigError("objective: cider needs photos in its mix")
        if self.mix is not None and self.mix.chains and (self.objective != "cider" or self.concepts is None):
            raise ConfigError("mix: chains is for objective: cider with concepts; elsewhere photos come in chains")
        if self.rewarded is not None and (self.objective != "cider" or self.concepts is None):
            raise ConfigError("rewarded is for objective: cider with concepts")
        domains(self.text)
        if self.caption_rows % self.episodes:
            raise ConfigError(f"caption_rows {self.caption_rows} must be a multiple of episodes {self.episodes}")

    def chained(self) -> str:
        """The source whose rows form memory chains."""
        return "chains" if self.mix is not None and self.mix.chains else "photos"

    def chains(self) -> Chains:
        """How the rows of its captioned photos hang together."""
        return Chains(self.episodes, self.revisit, self.repeat, self.hidden)

    def sources(self) -> dict[str, float]:
        """Shares of the steps by source: the mixture's; without one all the same, photos and text as far as asked."""
        if self.mix is not None:
            found = {name: share for name, share in vars(self.mix).items() if share}
        else:
            found = {"photos": float(self.pictures != "none"), "text": float(self.text_share > 0)}
        if self.rewarded is not None and self.rewarded.labelled:
            found.setdefault("labelled", 0.0)
        return found


@dataclass(frozen=True)
class DistillWeights:
    """Weights of the terms: patches, their mean, class probabilities, intermediate maps."""

    features: float = 1.0
    pooled: float = 0.5
    classes: float = 1.0
    maps: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, **dict.fromkeys(vars(self), (0, 1e6)))


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
        check_ranges(self, rows=(1, 65_536))
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ConfigError(f"area is [least, most], shares of a photo, not {list(self.area)}")
        if not 0 <= self.alone_from <= 1:
            raise ConfigError(f"alone_from is a share of the steps between 0 and 1, not {self.alone_from}")


@dataclass(frozen=True)
class Concepts:
    """A stage that fits a concept bank (`bitmar.train.concepts`) on a tower's features of data.captions and
    data.labelled; concepts.safetensors is what it leaves.

    least: captioned photos that must share a word. tokens: concepts that a model of it gets told. folds: banks that
    have not seen a share of the captioned photos, for the tags of these. views: of each photo, to fit on. prune:
    concepts that classes of the tower stand for and fewer than `least` photos show get no keys of their own.
    class_width: the classes read the last N channels alone, as the second tower of a pair does; 0: all. Both for size.
    """

    name: str
    tower: str
    kind: str = "concepts"
    least: int = 25
    tokens: int = 12
    folds: int = 4
    views: int = 2
    prune: bool = False
    class_width: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            self, least=(1, 1 << 31), tokens=(1, 256), folds=(2, 64), views=(1, 1024), class_width=(0, 1 << 24)
        )


Stage = Fit | Distill | Concepts
