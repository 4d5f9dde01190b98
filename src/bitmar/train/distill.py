"""Distillation of `BitViT` from a teacher's patch features: patient and consistent (arXiv 2106.05237).

Teacher and student see the very same random crop, every time a new one. Four terms pull the student: the patch
features, their mean over the picture, the teacher's class probabilities computed from the student's features (arXiv
2003.13691), and the teacher's maps at 1/8 and 1/16 of the side and before its last layer (FitNets, arXiv 1412.6550),
which the student's bottlenecks imitate.

Because the bottlenecks have the shape of those maps, a stage can be taught on the teacher's map while the stages before
it are still learning theirs (block-wise supervision, arXiv 1911.13053). The share of pictures treated so falls linearly
to 0, and from then on the tower is trained from end to end.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from bitmar.core.files import write_atomically
from bitmar.data.augment import ViewRange, random_view
from bitmar.data.photos import PhotoStore
from bitmar.data.towers.litert_torch import LiteRTTorch
from bitmar.model.vision import BitViT, BitViTConfig, initialise
from bitmar.train.ranks import is_main, main_first, wait, world_size
from bitmar.train.settings import computes_bf16
from bitmar.train.stages import Distill, DistillWeights
from bitmar.train.trainer import BatchTrainer, reporting_full_disk
from bitmar.train.workspace import MEAN, STD, Workspace

MAP_SIDES = (28, 14)  # of the maps that the first bottlenecks imitate; the last imitates the input of the last layer
CALIBRATION = 256  # photos on which the teacher's statistics are taken
FRESH_SCALE = 0.25  # of the teacher's deviation: how much a fresh head may say
LEAK = 0.1
STD_FLOOR = 0.25  # of the median: a channel that hardly ever fires must not dominate


class CropBatches:
    """Batch k of random crops, a pure function of (seed, k).

    {"photos": uint8 (rows, size, size, 3), "forced": bool (rows,)}. Every photo is seen once per epoch; the order and
    the crops differ from epoch to epoch. `forced` is True for a share of the rows that falls from 1 to 0 at batch
    `alone_from`.
    """

    def __init__(self, store: PhotoStore, rows: int, ranges: ViewRange, seed: int, alone_from: int) -> None:
        self.store, self.rows, self.ranges, self.seed, self.alone_from = store, rows, ranges, seed, alone_from
        self._order: tuple[int, np.ndarray] | None = None

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, 1, k))
        views = [
            random_view(self.store.photo(self._photo(k * self.rows + row)), rng, self.store.size, self.ranges)
            for row in range(self.rows)
        ]
        forced = np.arange(self.rows) < round(self.rows * max(0.0, 1 - k / self.alone_from))
        return {"photos": np.stack(views), "forced": forced}

    def _photo(self, position: int) -> int:
        epoch, place = divmod(position, len(self.store))
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.store))
        return int(self._order[1][place])


class Distillation(nn.Module):
    """Student and losses. The teacher is held outside the module tree, so it is neither trained nor saved.

    Args:
        calibration: photos, uint8 (n, S, S, 3), on which the teacher's mean and deviation per channel are measured.
        mean, std: normalisation of the student's pixels.
    """

    patch_mean: Tensor
    patch_std: Tensor
    pool_std: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor
    class_weight: Tensor
    class_bias: Tensor

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
            features, maps = teacher(torch.from_numpy(calibration), hints=MAP_SIDES)
        for name, x in (("patch", features), ("pool", features.mean(1)), *((f"map{i}", x) for i, x in enumerate(maps))):
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

    def forward(self, photos: Tensor, forced: Tensor) -> dict[str, Tensor]:
        """photos: uint8 (B, S, S, 3). forced: (B,) bool, True where the stages read the teacher's maps."""
        with torch.no_grad():
            target, maps = self._teacher[0].to(photos.device)(photos, hints=MAP_SIDES)
            maps = tuple(
                (x - self.get_buffer(f"map{i}_mean")) / self.get_buffer(f"map{i}_std") for i, x in enumerate(maps)
            )
        linear, own = self.student(self.pixels(photos), maps, forced)
        out = self.student.activate(linear)
        # A leak lets a feature that is wrongly silent learn to speak.
        leaky = F.leaky_relu(linear, LEAK) if self.student.config.out_activation == "relu" else linear
        terms = {
            "features": (((leaky - target) / self.patch_std) ** 2).mean(),
            "pooled": (((out.mean(1) - target.mean(1)) / self.pool_std) ** 2).mean(),
            "maps": torch.stack([F.mse_loss(a, b) for a, b in zip(own, maps, strict=True)]).sum(),
        }
        if self.weights.classes:
            goal = F.log_softmax(F.linear(target.mean(1), self.class_weight, self.class_bias), dim=-1)
            got = F.log_softmax(F.linear(out.mean(1), self.class_weight, self.class_bias), dim=-1)
            terms["classes"] = F.kl_div(got, goal, reduction="batchmean", log_target=True)
        terms["loss"] = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
        # Share of the teacher's variance that the student explains, and cosine after the mean is taken out.
        # All of it on the pictures that the student did alone; while there are none the terms are left out.
        a, b = out.detach()[~forced] - self.patch_mean, target[~forced] - self.patch_mean
        if len(a):
            terms["explained"] = 1 - ((a - b) ** 2).sum() / (b**2).sum()
            terms["cosine"] = F.cosine_similarity(a, b, dim=-1).mean()
        for i, (mine, theirs) in enumerate(zip(own, maps, strict=True)):
            if len(a):
                terms[f"map{i}"] = F.mse_loss(mine.detach()[~forced], theirs[~forced])
        return terms


def distill(stage: Distill, workspace: Workspace, output: Path) -> Path:
    """Runs a distill stage, from its last complete checkpoint if there is one. Returns the tower's folder.

    The folder holds config.json, model.safetensors (the student alone) and preprocessor_config.json, so it serves as
    the tower `bitvit:FOLDER` and as `tower_from` of a later stage.
    """
    recipe, settings = workspace.recipe, stage.training
    path = stage.teacher.partition(":")[2]
    with main_first(workspace.cache):
        store = workspace.photos("distill", (*recipe.data.captions, *recipe.data.photos))
    config = BitViTConfig.from_dict(recipe.tower or {})
    torch.manual_seed(settings.seed)
    teacher = LiteRTTorch(path, dtype=torch.bfloat16 if computes_bf16() else torch.float32)
    calibration = np.random.default_rng(settings.seed).choice(len(store), min(CALIBRATION, len(store)), replace=False)
    model = Distillation(
        config, teacher, stage.weights, np.stack([store.photo(int(i)) for i in calibration]), MEAN, STD
    )  # fmt: skip
    model.student.apply(initialise)
    with torch.no_grad():
        # Small, because what a fresh ternary head says is noise, and its own scale shrinks slowly.
        model.student.out_scale.copy_(FRESH_SCALE * model.patch_std)
        model.student.out_bias.copy_(model.patch_mean)
    if settings.compile:
        model.student.compile()
    ranges = ViewRange(area=stage.area, colour=0.0)
    batches = settings.steps * settings.accumulation * world_size()
    trainer = BatchTrainer(
        model,
        CropBatches(store, stage.rows, ranges, settings.seed, max(1, round(stage.alone_from * batches))),
        settings,
        output,
        terms=lambda terms: {name: value for name, value in terms.items() if name != "loss"},
        name=stage.name,
        on_saved=workspace.mirror.push_checkpoint if workspace.mirror else None,
    )
    trainer.train_or_resume()
    if is_main():
        with reporting_full_disk(output, "Free some space and run the same command again to resume"):
            save_tower(output, model.student)
    wait()
    return output


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
