"""transformers' Trainer, taught four things: indexed batches, restarts, named terms in the log, and careful saving."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, SequentialLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from bitmar.core.errors import BitMarError, DataError
from bitmar.train.settings import Training

COMPLETE = "trainer_state.json"  # the last file that the Trainer writes into a checkpoint


class NonFiniteLoss(BitMarError):
    """The loss became NaN or infinite; the message names the batch."""


class Batches(Dataset):
    """A batch source as a torch dataset: item k is batch k, as tensors, with its number."""

    def __init__(self, source: Any, length: int) -> None:
        self.source, self.length = source, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> dict[str, Tensor | int]:
        batch = {name: torch.as_tensor(np.ascontiguousarray(v)) for name, v in self.source[k].items()}
        return {**batch, "batch_number": k}


def only(items: list[Any]) -> Any:
    """Collation of one item, which already is a batch."""
    return items[0]


class BatchTrainer(Trainer):
    """Trains `model(**batch)`, whose output has a `loss` and, by name, the scalar terms to log.

    Args:
        source: `source[k]` is batch k, a pure function of the seed, so resuming in the middle is asking for the next k.
        terms: from a model output to the scalars that are averaged between two log lines.
        on_checkpoint: called with a finished checkpoint's folder.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        source: Any,
        training: Training,
        output: str | Path,
        *,
        terms: Callable[[Any], dict[str, Tensor]],
        on_checkpoint: Callable[[Path], None] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.training = training
        self._terms, self._on_checkpoint = terms, on_checkpoint
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._tokens, self._since = 0, time.perf_counter()
        if training.threads:
            torch.set_num_threads(training.threads)
        super().__init__(
            model=model,
            args=training.arguments(str(output)),
            train_dataset=Batches(source, training.steps * training.accumulation * _world_size()),
            data_collator=only,
            callbacks=callbacks,
        )
        self.model_accepts_loss_kwargs = False  # every batch of an accumulated step weighs the same

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        return SequentialSampler(train_dataset or self.train_dataset)  # the source has shuffled

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        number = inputs.pop("batch_number")
        output = model(**inputs)
        loss = output["loss"]
        if not torch.isfinite(loss):
            keys = {name: tuple(value.shape) for name, value in inputs.items() if isinstance(value, Tensor)}
            raise NonFiniteLoss(
                f"the loss is {loss.item()} at step {self.state.global_step}, batch {number} ({keys}). The last checkpoint "
                f"in {self.args.output_dir} is intact: resume with a smaller learning_rate or clip"
            )
        for name, value in self._terms(output).items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
            self._counts[name] += 1
        self._tokens += inputs["input_ids"].numel() if "input_ids" in inputs else 0
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {name: round((total / self._counts[name]).item(), 5) for name, total in self._sums.items()}
            now = time.perf_counter()
            if self._tokens:
                logs["tokens_per_second"] = round(self._tokens / (now - self._since), 1)
            logs["seconds"] = round(now - self._since, 2)
            self._sums, self._tokens, self._since = {}, 0, now
            self._counts.clear()
        super().log(logs, start_time)
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(self.state.log_history[-1]) + "\n")

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.training.optimizer == "adamw8bit" and self.args.device.type == "cuda":
            self.args.optim = "adamw_bnb_8bit"
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule(self.training, optimizer or self.optimizer)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def _save_checkpoint(self, model, trial) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self._on_checkpoint is not None and self.is_world_process_zero():
                self._on_checkpoint(folder)
        except (OSError, RuntimeError) as error:  # safetensors and torch.save report a full disk as RuntimeError
            if not isinstance(error, OSError) and "space" not in str(error) and "write" not in str(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            last = last_checkpoint(self.args.output_dir)
            kept = f"{last.name} is intact" if last else "no earlier checkpoint exists"
            raise DataError(
                f"could not write {folder}: {error}. {kept}; free some space and start the same command again to resume"
            ) from error


def _world_size() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", "1"))


def last_checkpoint(output: str | Path) -> Path | None:
    """The newest checkpoint that was written to its end; a half-written one, left by a kill, is passed over."""
    numbered = [
        (int(path.name.rsplit("-", 1)[1]), path)
        for path in Path(output).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.name.rsplit("-", 1)[1].isdigit() and (path / COMPLETE).exists()
    ]
    return max(numbered)[1] if numbered else None


def schedule(training: Training, optimizer: torch.optim.Optimizer):
    """The learning rate's course; the paper's is cosine with warm restarts (T_0, T_mult, eta_min)."""
    steps, warmup = training.steps, training.warmup_steps
    if training.schedule == "restarts":
        main = CosineAnnealingWarmRestarts(
            optimizer, training.t0, training.t_mult, eta_min=training.eta_min * training.learning_rate
        )
        if not warmup:
            return main
        rise = LambdaLR(optimizer, lambda step: (step + 1) / warmup)
        return SequentialLR(optimizer, [rise, main], [warmup])

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, steps - warmup)
        if training.schedule == "cosine":
            return training.eta_min + (1 - training.eta_min) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        if training.schedule == "linear":
            return max(training.eta_min, 1 - done)
        if training.schedule == "wsd":
            return min(1.0, max(0.0, (1 - done) / training.decay_share))
        return 1.0

    return LambdaLR(optimizer, factor)
