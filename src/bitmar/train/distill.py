"""Distillation of `BitViT` from a teacher's patch features: patient and consistent (arXiv 2106.05237).

Teacher and student see the very same random crop, every time a new one. Four terms pull the student:
the patch features, their mean over the picture, the teacher's class probabilities computed from the student's features
(arXiv 2003.13691), and two intermediate maps through linear projections (FitNets, arXiv 1412.6550).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from bitmar.core.errors import ConfigError
from bitmar.core.files import write_atomically
from bitmar.data.augment import ViewRange, random_view
from bitmar.data.photos import PhotoStore
from bitmar.data.towers.litert_torch import LiteRTTorch
from bitmar.model.vision import BitViT, BitViTConfig
from bitmar.train.monitor import Display
from bitmar.train.recipe import Distill
from bitmar.train.settings import from_mapping
from bitmar.train.trainer import BatchTrainer, last_checkpoint
from bitmar.train.workspace import MEAN, STD, Workspace

HINT_SIDES = (28, 14)  # of the teacher's maps; the student's maps at 1/8 and 1/16 of 224 pixels
CALIBRATION = 256  # photos on which the teacher's statistics are taken
STD_FLOOR = 0.25  # of the median: a channel that hardly ever fires must not dominate


class CropBatches:
    """Batch k of random crops, a pure function of (seed, k): {"photos": uint8 (rows, size, size, 3)}.

    Every photo is seen once per epoch; the order and the crops differ from epoch to epoch.
    """

    def __init__(self, store: PhotoStore, rows: int, ranges: ViewRange, seed: int) -> None:
        self.store, self.rows, self.ranges, self.seed = store, rows, ranges, seed
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, 1, k))
        views = [
            random_view(self.store.photo(self._photo(k * self.rows + row)), rng, self.store.size, self.ranges)
            for row in range(self.rows)
        ]
        return {"photos": np.stack(views)}

    def _photo(self, position: int) -> int:
        epoch, place = divmod(position, len(self.store))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.store))
        return int(self._order[1][place])


@dataclass(frozen=True)
class DistillWeights:
    """Weights of the terms: patches, their mean, class probabilities, intermediate maps."""

    features: float = 1.0
    pooled: float = 0.5
    classes: float = 0.5
    hints: float = 0.25


class Distillation(nn.Module):
    """Student and losses. The teacher is held outside the module tree, so it is neither trained nor saved.

    Args:
        calibration: photos, uint8 (n, S, S, 3), on which the teacher's mean and deviation per channel are measured.
        mean, std: normalisation of the student's pixels.
    """

    def __init__(
        self,
        config: BitViTConfig,
        teacher: LiteRTTorch,
        weights: DistillWeights,
        calibration: np.ndarray,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.student = BitViT(config)
        self.weights = weights
        self._teacher = [teacher]
        with torch.no_grad():
            features, hints = teacher(torch.from_numpy(calibration), hints=HINT_SIDES)
        widths = (config.stem_channels[1], config.widths[0])
        self.hint_heads = nn.ModuleList(
            nn.Linear(width, hint.shape[-1]) for width, hint in zip(widths, hints, strict=True)
        )
        for name, x in (("patch", features), ("pool", features.mean(1)), ("hint0", hints[0]), ("hint1", hints[1])):
            flat = x.flatten(0, -2)
            deviation = flat.std(0)
            self.register_buffer(f"{name}_mean", flat.mean(0))
            self.register_buffer(f"{name}_std", deviation.clamp(min=STD_FLOOR * deviation.median().item()))
        self.register_buffer("pixel_mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)
        classifier = teacher.classifier() if weights.classes else (torch.empty(0), torch.empty(0))
        self.register_buffer("class_weight", classifier[0], persistent=False)
        self.register_buffer("class_bias", classifier[1], persistent=False)

    def pixels(self, photos: Tensor) -> Tensor:
        """uint8 (B, S, S, 3) -> normalised (B, 3, S, S)."""
        return (photos.permute(0, 3, 1, 2).float() - self.pixel_mean) / self.pixel_std

    def forward(self, photos: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            target, hint_targets = self._teacher[0](photos, hints=HINT_SIDES)
        out, coarse, tokens = self.student(self.pixels(photos), hints=True)
        out = out.float()
        terms = {
            "features": F.mse_loss((out - target) / self.patch_std, torch.zeros_like(out)),
            "pooled": (((out.mean(1) - target.mean(1)) / self.pool_std) ** 2).mean(),
        }
        if self.weights.classes:
            goal = F.log_softmax(F.linear(target.mean(1), self.class_weight, self.class_bias), dim=-1)
            got = F.log_softmax(F.linear(out.mean(1), self.class_weight, self.class_bias), dim=-1)
            terms["classes"] = F.kl_div(got, goal, reduction="batchmean", log_target=True)
        if self.weights.hints:
            maps = (coarse.flatten(2).transpose(1, 2), tokens)
            losses = [
                ((head(x).float() - (hint - mean) / std) ** 2).mean()
                for head, x, hint, mean, std in zip(
                    self.hint_heads, maps, hint_targets,
                    (self.hint0_mean, self.hint1_mean), (self.hint0_std, self.hint1_std), strict=True,
                )
            ]  # fmt: skip
            terms["hints"] = torch.stack(losses).sum()
        terms["loss"] = sum(getattr(self.weights, name) * term for name, term in terms.items())
        # Share of the teacher's variance that the student explains, and cosine after the mean is taken out.
        a, b = out.detach() - self.patch_mean, target - self.patch_mean
        terms["explained"] = 1 - ((a - b) ** 2).sum() / (b**2).sum()
        terms["cosine"] = F.cosine_similarity(a, b, dim=-1).mean()
        return terms


def distill(stage: Distill, workspace: Workspace, output: Path) -> Path:
    """Runs a distill stage, from its last complete checkpoint if there is one. Returns the tower's folder.

    The folder holds config.json, model.safetensors (the student alone) and preprocessor_config.json, so it serves as the
    tower `bitvit:FOLDER` and as `tower_from` of a later stage.
    """
    recipe, settings = workspace.recipe, stage.settings
    kind, _, path = stage.teacher.partition(":")
    if kind not in ("litert", "litert-torch") or not path:
        raise ConfigError(f"stage {stage.name}: the teacher of a distillation is litert:PATH, not {stage.teacher!r}")
    store = workspace.photos("distill", (*recipe.data.captions, *recipe.data.photos))
    config = BitViTConfig.from_dict(recipe.tower or {})
    torch.manual_seed(settings.seed)
    native = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    teacher = LiteRTTorch(path, dtype=torch.bfloat16 if native else torch.float32)
    calibration = np.random.default_rng(settings.seed).choice(len(store), min(CALIBRATION, len(store)), replace=False)
    model = Distillation(
        config, teacher, from_mapping(DistillWeights, stage.weights, f"stage {stage.name}: weights"),
        np.stack([store.photo(int(i)) for i in calibration]), MEAN, STD,
    )  # fmt: skip
    model.student.apply(initialise)
    if settings.compile:
        model.student.compile()
    ranges = ViewRange(area=stage.area, colour=0.0)
    trainer = BatchTrainer(
        model,
        CropBatches(store, stage.rows, ranges, settings.seed),
        settings,
        output,
        terms=lambda terms: {name: value for name, value in terms.items() if name != "loss"},
        callbacks=[Display(stage.name)],
    )
    last = last_checkpoint(output)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return save_tower(output, model.student)


def initialise(module: nn.Module) -> None:
    """The start that `BitMarPreTrainedModel` gives the same layers."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, BitViT):
        nn.init.normal_(module.position, std=0.02)


def save_tower(folder: Path, student: BitViT) -> Path:
    """Writes the tower alone as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    preprocessing = {"size": student.config.image_size, "resize": "squash", "image_mean": MEAN, "image_std": STD}
    for name, content in (
        ("config.json", json.dumps({"model_type": "bitvit", **student.config.to_dict()}, indent=2).encode()),
        ("preprocessor_config.json", json.dumps(preprocessing, indent=2).encode()),
        ("model.safetensors", save(weights)),
    ):
        write_atomically(folder / name, content)
    return folder
