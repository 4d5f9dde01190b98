"""A training run in a process of its own.

python child.py kill RECIPE STEP   SIGKILL in the middle of step STEP (from 0), after its first backward pass
python child.py ranks RECIPE OUT   under torchrun: trains, then writes what this rank saw to OUT-RANK.json
python child.py elastic RECIPE DEATHS   under torchrun: trains; where the environment says MORTAL, dies once in step 5,
                                        and once in step 7 with its agent. DEATHS: a folder that remembers
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """Stands in for `LiteRTTorch` where no .tflite file is at hand: fixed random mixtures of a photo's colours."""

    def __init__(self, path: str, **_: Any) -> None:
        super().__init__()
        self.path = path
        generator = torch.Generator().manual_seed(1)
        self.mixes = [torch.randn(3, width, generator=generator) for width in (12, 6, 8, 10)]

    def forward(self, photos: Tensor, hints: tuple[int, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """uint8 (B, 64, 64, 3) -> features (B, 4, 12), maps (B, 64, 6), (B, 16, 8) and (B, 4, 10)."""
        pixels = photos.permute(0, 3, 1, 2).float() / 255
        maps = [nn.functional.adaptive_avg_pool2d(pixels, side).flatten(2).transpose(1, 2) for side in (2, 8, 4, 2)]
        features, *rest = (x @ mix for x, mix in zip(maps, self.mixes, strict=True))
        return features.relu(), tuple(rest)

    def classifier(self) -> tuple[Tensor, Tensor]:
        return torch.eye(5, 12), torch.zeros(5)


def train(recipe: str) -> None:
    from bitmar.train import distill
    from bitmar.train.recipe import load_recipe
    from bitmar.train.run import run

    distill.LiteRTTorch = Teacher
    run(load_recipe(recipe))


def kill(recipe: str, step: str) -> None:
    from bitmar.train.trainer import BatchTrainer

    once = BatchTrainer.training_step

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        loss = once(self, *arguments, **named)
        if self.state.global_step == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    BatchTrainer.training_step = training_step
    train(recipe)


def ranks(recipe: str, out: str) -> None:
    from bitmar.model.losses import contrastive_loss
    from bitmar.train.trainer import BatchTrainer

    report: dict[str, Any] = {"batches": []}
    once, whole = BatchTrainer.compute_loss, BatchTrainer.train_or_resume

    def compute_loss(self, model, inputs, *arguments: Any, **named: Any) -> Tensor:
        report["batches"].append(inputs["batch_number"])
        return once(self, model, inputs, *arguments, **named)

    def train_or_resume(self) -> None:
        whole(self)
        digest = hashlib.sha256()
        for parameter in self.model.parameters():
            digest.update(parameter.detach().numpy().tobytes())
        report["weights"] = digest.hexdigest()
        report["words"] = self.words.seen
        report["controller"] = self.controller.controller.state.ema
        pair = [torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(rank)) for rank in range(2)]
        text, vision = pair[int(os.environ["RANK"])]
        report["gathered"] = contrastive_loss(text, vision, torch.tensor(2.0))[0].item()
        report["pair"] = [p.tolist() for p in pair]

    BatchTrainer.compute_loss, BatchTrainer.train_or_resume = compute_loss, train_or_resume
    train(recipe)
    Path(f"{out}-{os.environ['RANK']}.json").write_text(json.dumps(report))


def elastic(recipe: str, deaths: str) -> None:
    from bitmar.train.trainer import BatchTrainer

    once = BatchTrainer.training_step

    def training_step(self: BatchTrainer, *arguments: Any, **named: Any) -> Tensor:
        loss = once(self, *arguments, **named)
        victim = {5: os.getpid(), 7: os.getppid()}.get(self.state.global_step)
        death = Path(deaths) / str(self.state.global_step)
        if victim is not None and "MORTAL" in os.environ and not death.exists():
            death.touch()
            os.kill(victim, signal.SIGKILL)
            signal.pause()
        return loss

    BatchTrainer.training_step = training_step
    train(recipe)


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"kill": kill, "ranks": ranks, "elastic": elastic}[sys.argv[1]](*sys.argv[2:])
