"""A packed model trained on, on a few photos: its words for what it sees. Eyes and memory stand still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from bitmar.core.container import Container
from bitmar.core.errors import ConfigError
from bitmar.data.caption_batches import CaptionBatches
from bitmar.data.features import FeatureStore
from bitmar.train.monitor import evaluate, forward_arguments
from bitmar.train.settings import Training
from bitmar.train.state import StatefulCallback
from bitmar.train.trainer import BatchTrainer
from bitmar.unpack import save_like, unpacked

_STILL = ("model.memory", "memory_proj", "memory_gate")  # what a session's episodes rest on
_WIDEST = 48  # tokens of a caption
_EPOCHS, _STEPS = 15, 600
LOOKS = 15  # at the photos that choose the state to keep
_PATIENCE = 5  # looks without a better state, after which it stops
_CHOOSING = 0.15  # share of the photos that choose


@dataclass(frozen=True)
class Adapting:
    """epochs: how often every photo comes, each time in another view; None for 15, or as many as 600 steps hold.

    learning_rate: at its highest, which it reaches slowly: what is known already wants few and small steps, what is new
    many and large ones, and the best of `LOOKS` states is kept. rows: captions a step. threads: 0 = all cores.
    """

    epochs: int | None = None
    learning_rate: float = 4e-3
    rows: int = 16
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "rows"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise ConfigError(f"{name} must be at least 1, not {given}")

    def training(self, photos: int) -> Training:
        """As the trainer wants it."""
        steps = -(-photos * (self.epochs or _EPOCHS) // self.rows)
        steps = steps if self.epochs else min(steps, _STEPS)
        return Training(
            steps=steps,
            learning_rate=self.learning_rate,
            schedule="cosine",
            warmup_steps=steps // 3,
            eta_min=0.05,
            optimizer="adamw",
            betas=(0.9, 0.98),
            weight_decay=0.0,
            clip=1.0,
            precision="fp32",
            workers=0,
            threads=self.threads,
            log_every=max(1, steps // LOOKS),
            save_every=max(25, steps // 5),
            keep=1,
            seed=self.seed,
        )


class Part:
    """Some photos of a store, by their numbers there."""

    def __init__(self, store: FeatureStore, numbers: Sequence[int]) -> None:
        self._store, self._numbers, self.views = store, list(numbers), store.views

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> Any:
        return self._store[self._numbers[i]]

    def part(self, places: Sequence[int]) -> Part:
        """Some of them."""
        return Part(self._store, [self._numbers[i] for i in places])

    def features(self, i: int, view: int = 0) -> npt.NDArray[np.float32]:
        """(N_p, D_v)"""
        return self._store.features(self._numbers[i], view)


def train_on(container: Container, photos: Part, folder: Path, settings: Adapting) -> Path:
    """Trains a packed model on captioned photos and returns a checkpoint, ready for `export_checkpoint`.

    photos: as this model's own tower sees them. folder: of checkpoints; a stopped run goes on from there, to the same
    weights. Raises KeyboardInterrupt after Ctrl-C.
    """
    model = unpacked(container)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in _STILL))
    model.contrastive_weight, model.memory_weight = 0.1, 0.0
    order = np.random.default_rng(settings.seed).permutation(len(photos)).tolist()
    count = max(2, round(_CHOOSING * len(photos)))
    tokenizer, size = container.load_tokenizer(), (settings.rows, settings.seed, _WIDEST)
    batches = CaptionBatches(photos.part(order[count:]), tokenizer, *size)
    choosing = CaptionBatches(photos.part(order[:count]), tokenizer, *size, training=False)
    training = settings.training(len(batches.images))
    best = BestState(model, choosing, max(1, training.steps // LOOKS), folder / "best.safetensors")
    trainer = _CaptionTrainer(model, batches, training, folder, name="training", terms=lambda _: {}, callbacks=[best])
    trainer.train_or_resume()
    model.load_state_dict(load_file(best.path))
    return save_like(container, model, folder / "model")


class _CaptionTrainer(BatchTrainer):
    """Gives the model its batches as its `forward` wants them."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return super().compute_loss(model, forward_arguments(inputs), return_outputs)


class BestState(StatefulCallback):
    """Every N steps: the loss on photos that are not trained on, and the weights if it is the smallest so far."""

    def __init__(self, model: torch.nn.Module, source: CaptionBatches, every: int, path: Path) -> None:
        self.model, self.source, self.every, self.path = model, source, every, path
        self.losses: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.losses = list(saved["losses"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every:
            return
        loss = evaluate(self.model, {"captions": self.source})["captions_loss"]
        if loss < min(self.losses, default=float("inf")):
            save_file(self.model.state_dict(), self.path)
        self.losses.append(loss)
        if len(self.losses) - int(np.argmin(self.losses)) > _PATIENCE:
            control.should_training_stop = True
