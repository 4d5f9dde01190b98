"""transformers' Trainer, taught four things: indexed batches, restarts, named terms in the log, and careful saving."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from bitmar.core.errors import BitMarError, DataError, FormatError
from bitmar.train.interrupt import StopOnInterrupt
from bitmar.train.monitor import Display, LogFile
from bitmar.train.ranks import gather, wait, world_size, writes_to
from bitmar.train.settings import Training

UNFINISHED = ".unfinished"  # where a checkpoint is written before it gets its name


class NonFiniteLoss(BitMarError):
    """The loss or a weight became NaN or infinite; the message names the batch or the step."""


class Batches(Dataset[dict[str, Any]]):
    """A batch source as a torch dataset: item k is batch k, as tensors, with its number."""

    def __init__(self, source: Any, length: int) -> None:
        self.source, self.length = source, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, k: int) -> dict[str, Tensor | int]:
        batch = {name: torch.as_tensor(np.asarray(v, order="C")) for name, v in self.source[k].items()}
        return {**batch, "batch_number": k}


def only(items: list[Any]) -> Any:
    """Collation of one item, which already is a batch."""
    return items[0]


class BatchTrainer(Trainer):
    """Trains `model(**batch)`, whose output has a `loss` and, by name, the scalar terms to log.

    Args:
        source: `source[k]` is batch k, a pure function of the seed, so resuming in the middle is asking for the next k.
        name: of the stage, for the display.
        terms: from a model output to the scalars that are averaged between two log lines.
        counted: names among them of which the log says in how many batches they could be computed, 0 included.
        on_checkpoint: called with the folder of a checkpoint that has everything but what this adds; on_saved: with
            that of a complete one.
    """

    lr_scheduler: LambdaLR | None

    def __init__(
        self,
        model: torch.nn.Module,
        source: Any,
        training: Training,
        output: str | Path,
        *,
        name: str = "",
        terms: Callable[[Any], dict[str, Tensor]],
        counted: tuple[str, ...] = (),
        on_checkpoint: Callable[[Path], None] | None = None,
        on_saved: Callable[[Path], None] | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self.training = training
        self._terms, self._counted = terms, counted
        self._on_checkpoint, self._on_saved = on_checkpoint, on_saved
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = defaultdict(int)
        self._tokens, self._since = 0, time.perf_counter()
        self._saving_to: Path | None = None
        self._clears = writes_to(Path(output))
        self._display = Display(name)
        self._interrupt = StopOnInterrupt(self._display.console)
        if training.threads:
            torch.set_num_threads(training.threads)
        super().__init__(
            model=model,
            args=training.arguments(str(output)),
            train_dataset=Batches(source, training.steps * training.accumulation * world_size()),
            data_collator=only,
            callbacks=[*(callbacks or ()), LogFile(output), self._display, self._interrupt],
        )
        self.remove_callback(PrinterCallback)  # prints every log again, as a dict
        self.model_accepts_loss_kwargs = False  # every batch of an accumulated step weighs the same

    def train_or_resume(self) -> None:
        """Trains to the end, from the last checkpoint if there is one. After Ctrl-C it raises KeyboardInterrupt."""
        last = common_checkpoint(self.args.output_dir)
        try:
            self.train(resume_from_checkpoint=str(last) if last else None)
        finally:
            self._interrupt.restore()
            self._display.stop()
        if self._interrupt.asked:
            raise KeyboardInterrupt(f"{self._kept()}: run the same command again to go on from it")

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> SequentialSampler:
        return SequentialSampler(range(len(self.train_dataset)))  # the source has shuffled

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        number = inputs.pop("batch_number")
        weight = inputs.pop("loss_weight", 1.0)
        output = model(**inputs)
        loss = output["loss"] * weight
        if not torch.isfinite(loss):
            keys = {name: tuple(value.shape) for name, value in inputs.items() if isinstance(value, Tensor)}
            raise NonFiniteLoss(
                f"the loss is {loss.item()} at step {self.state.global_step}, batch {number} ({keys}). {self._kept()}: "
                "resume with a smaller learning_rate or clip"
            )
        terms = self._terms(output)
        if isinstance(weight, Tensor):
            terms["loss_weight"] = weight
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
            self._counts[name] += 1
        self._tokens += inputs["input_ids"].numel() if "input_ids" in inputs else 0
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= {name: round((total / self._counts[name]).item(), 5) for name, total in self._sums.items()}
            logs |= {f"{name}_batches": self._counts[name] for name in self._counted}
            now = time.perf_counter()
            if self._tokens:
                logs["tokens_per_second"] = round(self._tokens / (now - self._since), 1)
            logs["seconds"] = round(now - self._since, 2)
            self._sums, self._tokens, self._since = {}, 0, now
            self._counts.clear()
        super().log(logs, start_time)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.training.optimizer == "adamw8bit" and self.args.device.type == "cuda":
            self.args.optim = "adamw_bnb_8bit"
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule(self.training, optimizer or self.optimizer)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Checkpoints. Whatever has the name checkpoint-N is complete: it gets the name last.

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_to or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise NonFiniteLoss(
                f"a weight is not finite after step {self.state.global_step}. {self._kept()}: "
                "resume with a smaller learning_rate or clip"
            )
        output = Path(self.args.output_dir)
        final = output / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._saving_to = output / UNFINISHED
        try:
            with reporting_full_disk(
                final, f"{self._kept()}; free some space and run the same command again to resume"
            ):
                super()._save_checkpoint(model, trial)
                self._finish(self._saving_to / final.name, final)
            wait()  # what other machines have written is not cleared away before it was used
        finally:
            if self._clears:
                shutil.rmtree(self._saving_to, ignore_errors=True)
            self._saving_to = None

    def _finish(self, written: Path, final: Path) -> None:
        """Complete a checkpoint by the random states of ranks with another disk, and give it its name."""
        random_state = written / f"rng_state_{self.args.process_index}.pth"
        states = gather((random_state.name, random_state.read_bytes()) if random_state.exists() else None)
        if not self.is_world_process_zero():
            return
        for name, content in filter(None, states):
            (written / name).write_bytes(content)
        if self._on_checkpoint is not None:
            self._on_checkpoint(written)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(written, final)
        for old in checkpoints(final.parent)[: -self.training.keep]:
            shutil.rmtree(old, ignore_errors=True)
        if self._on_saved is not None:
            self._on_saved(final)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except (RuntimeError, SafetensorError, OSError) as error:  # another recipe's tensors, or a damaged file
            raise FormatError(
                f"cannot resume from {resume_from_checkpoint}: {error}. Delete that folder, or choose another `output`"
            ) from error

    def _kept(self) -> str:
        last = last_checkpoint(self.args.output_dir)
        return f"The last checkpoint, {last}, is intact" if last else "There is no earlier checkpoint"


@contextmanager
def reporting_full_disk(target: Path, advice: str) -> Iterator[None]:
    """Turns a failed write, however torch, safetensors or the system report it, into one DataError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save's file writer
            raise
        raise DataError(f"could not write {target}: {error}. {advice}") from error


def checkpoints(output: str | Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    numbered = [
        (int(path.name.rsplit("-", 1)[1]), path)
        for path in Path(output).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if path.name.rsplit("-", 1)[1].isdecimal() and (path / "trainer_state.json").is_file()
    ]
    return [path for _, path in sorted(numbered)]


def common_checkpoint(output: str | Path) -> Path | None:
    """The newest checkpoint that every rank finds, each on its disk; None if there is none."""
    common = set.intersection(*gather({path.name for path in checkpoints(output)}))
    return next((path for path in reversed(checkpoints(output)) if path.name in common), None)


def last_checkpoint(output: str | Path) -> Path | None:
    """The newest checkpoint of a run; None if there is none."""
    found = checkpoints(output)
    return found[-1] if found else None


def schedule(training: Training, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """The learning rate's course after a linear rise; the paper's is "restarts" (T_0, T_mult, eta_min)."""
    steps, warmup, least = training.steps, training.warmup_steps, training.eta_min

    def cosine(done: float) -> float:
        return least + (1 - least) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if training.schedule == "restarts":
            return cosine(_place_in_period(step - warmup, training.t0, training.t_mult))
        done = (step - warmup) / max(1, steps - warmup)
        if training.schedule == "cosine":
            return cosine(done)
        if training.schedule == "linear":
            return max(least, 1 - done)
        if training.schedule == "wsd":
            return min(1.0, max(0.0, (1 - done) / training.decay_share))
        return 1.0

    return LambdaLR(optimizer, factor)


def _place_in_period(step: int, period: int, growth: int) -> float:
    """The share of its period that `step` has completed, in [0, 1)."""
    if growth == 1:
        step %= period
    while step >= period:
        step, period = step - period, period * growth
    return step / period
