from __future__ import annotations

import errno
import io
import json
import math
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts
from transformers import Trainer, TrainerCallback

from bitmar.core.errors import DataError, FormatError
from bitmar.train.interrupt import StopOnInterrupt
from bitmar.train.runs import read_log
from bitmar.train.settings import Training
from bitmar.train.trainer import (
    BatchTrainer,
    NonFiniteLoss,
    checkpoints,
    last_checkpoint,
    reporting_full_disk,
    schedule,
)

WIDTH = 64  # the weight has 16 kB, the optimizer's state twice that


class Toy(nn.Module):
    """Learns to give 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        loss = self.layer(self.dropout(x)).square().mean()
        return {"loss": loss, "double": 2 * loss}


class Source:
    """Batch k is random numbers; `hook(k)` is called first."""

    def __init__(self, hook: Any = None) -> None:
        self.hook = hook

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng(k).normal(size=(3, WIDTH)).astype(np.float32)
        return {"x": x if self.hook is None else x * np.float32(self.hook(k) or 1)}


def trainer(folder: Path, source: Any = None, model: nn.Module | None = None, **changes: Any) -> BatchTrainer:
    values = {
        "steps": 8, "learning_rate": 1e-2, "schedule": "constant", "optimizer": "adamw", "precision": "fp32",
        "workers": 0, "threads": 1, "log_every": 2, "save_every": 2, "keep": 2,
    }  # fmt: skip
    callbacks = changes.pop("callbacks", None)
    return BatchTrainer(
        model or Toy(),
        source or Source(),
        Training(**{**values, **changes}),
        folder,
        name="toy",
        terms=lambda output: {"double": output["double"]},
        callbacks=callbacks,
    )


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


def weight(folder: Path) -> Tensor:
    return load_file(folder / "model.safetensors")["layer.weight"]


def test_logs_named_terms_in_lines_and_nothing_on_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path).train_or_resume()
    *lines, summary = read_log(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    for line in lines:
        assert line["double"] == pytest.approx(2 * line["loss"], abs=1e-4)
        assert {"grad_norm", "learning_rate", "seconds"} <= line.keys()
    assert lines[-1]["loss"] < lines[0]["loss"] and "train_runtime" in summary
    out, err = capfd.readouterr()
    assert out == ""  # the Trainer's own dicts
    assert "toy 2: " in err and "double" in err


def test_keeps_the_last_checkpoints(tmp_path: Path) -> None:
    trainer(tmp_path).train_or_resume()
    assert names(tmp_path) == ["checkpoint-6", "checkpoint-8"]
    assert not (tmp_path / ".unfinished").exists()


def test_every_batch_is_used_once_in_order(tmp_path: Path) -> None:
    seen: list[int] = []
    trainer(tmp_path, Source(seen.append), accumulation=2, steps=3).train_or_resume()
    assert seen == [0, 1, 2, 3, 4, 5]


# --- a loss that is not finite ----------------------------------------------------------------------


def test_a_loss_that_is_nan_stops_the_run_and_names_the_batch(tmp_path: Path) -> None:
    def poison(k: int) -> float | None:
        return math.nan if k == 5 else None

    with pytest.raises(NonFiniteLoss, match=r"the loss is nan at step 5, batch 5 .*checkpoint-4, is intact"):
        trainer(tmp_path, Source(poison)).train_or_resume()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    assert weight(tmp_path / "checkpoint-4").isfinite().all()


def test_broken_weights_do_not_become_a_checkpoint(tmp_path: Path) -> None:
    model = Toy()
    runs = trainer(tmp_path, model=model)
    model.layer.weight.register_hook(lambda g: g * math.nan if runs.state.global_step == 5 else g)
    with pytest.raises(NonFiniteLoss, match="a weight is not finite after step 6"):
        runs.train_or_resume()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]


# --- a full disk ------------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_checkpoint_and_the_run_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path / "whole", keep=1).train_or_resume()
    once = Trainer._save_optimizer_and_scheduler

    def full(self: Trainer, output_dir: str) -> None:
        if self.state.global_step == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        once(self, output_dir)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(DataError, match=r"checkpoint-4: .*No space left.*checkpoint-2, is intact"):
            trainer(tmp_path / "run", keep=1).train_or_resume()
    assert names(tmp_path / "run") == ["checkpoint-2"]
    assert not any(path.name.startswith((".unf", "checkpoint-4")) for path in (tmp_path / "run").iterdir())
    trainer(tmp_path / "run", keep=1).train_or_resume()
    assert weight(tmp_path / "run" / "checkpoint-8").equal(weight(tmp_path / "whole" / "checkpoint-8"))


class FileLimit(TrainerCallback):
    """No file may grow beyond `size` bytes once `step` is reached: the closest that a test comes to a full disk."""

    def __init__(self, step: int, size: int) -> None:
        self.step, self.size = step, size

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("size", [8_000, 24_000], ids=["weights do not fit", "optimizer does not fit"])
def test_a_real_failing_write(tmp_path: Path, size: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(DataError, match=r"could not write .*checkpoint-4: .*checkpoint-2, is intact"):
            trainer(tmp_path, keep=1, callbacks=[FileLimit(4, size)]).train_or_resume()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["checkpoint-2"]
    trainer(tmp_path, keep=1).train_or_resume()
    assert names(tmp_path) == ["checkpoint-8"]


def test_only_failed_writes_are_called_a_full_disk(tmp_path: Path) -> None:
    for error in (OSError(errno.ENOSPC, "full"), SafetensorError("I/O error"), RuntimeError("inline_container.cc: x")):
        with pytest.raises(DataError, match=r"could not write .*Then this"), reporting_full_disk(tmp_path, "Then this"):
            raise error
    with pytest.raises(RuntimeError, match="CUDA"), reporting_full_disk(tmp_path, ""):
        raise RuntimeError("CUDA error")


# --- resuming ---------------------------------------------------------------------------------------


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, complete in ((2, True), (10, True), (12, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if complete:
            (folder / "trainer_state.json").write_text("{}")
    (tmp_path / ".unfinished" / "checkpoint-14").mkdir(parents=True)
    (tmp_path / "checkpoint-old").mkdir()
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-10"]  # by number, not by name


def test_a_checkpoint_of_another_model_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2).train_or_resume()
    other = Toy()
    other.layer = nn.Linear(WIDTH, WIDTH + 1, bias=False)
    with pytest.raises(FormatError, match=r"(?s)cannot resume from .*checkpoint-2: .*size mismatch.*another `output`"):
        trainer(tmp_path, model=other).train_or_resume()
    (tmp_path / "checkpoint-2" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0garbage!")
    with pytest.raises(FormatError, match=r"cannot resume from .*checkpoint-2"):
        trainer(tmp_path).train_or_resume()


def test_a_resume_cuts_off_the_log_of_lost_steps(tmp_path: Path) -> None:
    trainer(tmp_path, steps=4).train_or_resume()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(json.dumps({"loss": 0.0, "step": 5}) + '\n{"half a li')
    trainer(tmp_path).train_or_resume()
    assert [line["step"] for line in read_log(tmp_path) if "loss" in line] == [2, 4, 6, 8]


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    def press(k: int) -> None:
        if k == 3:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", Source(press), save_every=100).train_or_resume()
    assert signal.getsignal(signal.SIGINT) is handler
    stopped = last_checkpoint(tmp_path / "run")
    assert stopped is not None and stopped.name in ("checkpoint-3", "checkpoint-4")
    resumed = trainer(tmp_path / "run", save_every=100)
    resumed.train_or_resume()
    whole = trainer(tmp_path / "whole", save_every=100)
    whole.train_or_resume()
    assert resumed.model.layer.weight.equal(whole.model.layer.weight)


def test_a_second_ctrl_c_stops_at_once() -> None:
    stop = StopOnInterrupt(Console(file=io.StringIO()))
    stop._ask()
    with pytest.raises(KeyboardInterrupt):
        stop._ask()


def test_a_process_that_prepares_batches_says_nothing_on_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the handler from its parent, and the terminal signals them all."""
    said = io.StringIO()
    stop = StopOnInterrupt(Console(file=said))
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        stop._ask()
        stop._ask()
    assert not stop.asked and said.getvalue() == ""
    stop._ask()
    assert said.getvalue().count("stopping after this step") == 1


# --- the learning rate ------------------------------------------------------------------------------

RATE = 0.01


def rates(**values: Any) -> list[float]:
    training = Training(**{"learning_rate": RATE, **values})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    return _course(optimizer, schedule(training, optimizer), training.steps)


def _course(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("t0, t_mult", [(1, 1), (7, 1), (5, 2), (3, 3), (100, 2)])
def test_restarts_are_those_of_torch(t0: int, t_mult: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    theirs = _course(optimizer, CosineAnnealingWarmRestarts(optimizer, t0, t_mult, eta_min=0.1 * RATE), 90)
    ours = rates(steps=90, schedule="restarts", t0=t0, t_mult=t_mult, eta_min=0.1)
    assert ours == pytest.approx(theirs)


def test_restarts_of_the_paper() -> None:
    course = rates(steps=7002, schedule="restarts", t0=1000, t_mult=2, eta_min=0.1)
    tops = [step for step, rate in enumerate(course) if rate == pytest.approx(RATE, rel=1e-9)]
    assert tops == [0, 1000, 3000, 7000]
    assert min(course) == pytest.approx(0.1 * RATE, rel=1e-3) and min(course) >= 0.1 * RATE


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=RATE)
    theirs = _course(optimizer, CosineAnnealingLR(optimizer, 40, eta_min=0.2 * RATE), 40)
    assert rates(steps=40, schedule="cosine", eta_min=0.2) == pytest.approx(theirs)


def test_linear_wsd_and_constant() -> None:
    linear = rates(steps=10, schedule="linear", eta_min=0.25)
    assert linear == pytest.approx([RATE * max(0.25, 1 - k / 10) for k in range(10)])
    wsd = rates(steps=10, schedule="wsd", decay_share=0.4)
    assert wsd == pytest.approx([RATE * min(1, (10 - k) / 4) for k in range(10)])
    assert rates(steps=5, schedule="constant") == [RATE] * 5


@pytest.mark.parametrize("name", ["restarts", "cosine", "linear", "wsd", "constant"])
def test_the_rise_comes_before_the_schedule(name: str) -> None:
    course = rates(steps=24, schedule=name, warmup_steps=4, t0=5)
    assert course[:4] == pytest.approx([RATE * k / 4 for k in (1, 2, 3, 4)])
    assert course[4:] == pytest.approx(rates(steps=20, schedule=name, t0=5))


def test_groups_keep_their_ratio() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": RATE * f} for f in (1.0, 0.05)]
    optimizer = torch.optim.SGD(groups)
    scheduler = schedule(Training(steps=20, learning_rate=RATE, t0=6), optimizer)
    for _ in range(20):
        fast, slow = (group["lr"] for group in optimizer.param_groups)
        assert slow == pytest.approx(0.05 * fast)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("asked", "device", "chosen"),
    [
        ("adamw8bit", "cuda", "adamw_bnb_8bit"),
        ("adamw8bit", "cpu", "adamw_torch_fused"),
        ("adamw", "cuda", "adamw_torch_fused"),
    ],
)
def test_adamw_is_of_8_bits_where_a_gpu_has_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, device: str, chosen: str
) -> None:
    made = trainer(tmp_path, optimizer=asked)
    monkeypatch.setattr(type(made.args), "device", property(lambda _: torch.device(device)))
    used: list[str] = []
    monkeypatch.setattr(Trainer, "create_optimizer", lambda self, *_: used.append(self.args.optim))
    made.create_optimizer()
    assert [str(getattr(name, "value", name)) for name in used] == [chosen]
