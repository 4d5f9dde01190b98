"""How a run is trained: the `training:` part of a recipe, and its translation into transformers' words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from bitmar.core.errors import ConfigError, nearest


def from_mapping(cls: type, values: dict[str, Any] | None, where: str) -> Any:
    """Builds a dataclass from a recipe's mapping; an unknown or missing key is a ConfigError that names it."""
    values = values or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping, found {type(values).__name__}")
    known = {f.name: f for f in fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    try:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


@dataclass(frozen=True)
class Training:
    """Optimisation of one run; the defaults are the paper's (section 4.2) where it gives one.

    steps: optimiser steps. accumulation: batches per step. schedule: "restarts" (SGDR, arXiv 1608.03983: first period t0,
    growing by t_mult, never below eta_min * learning_rate), "cosine", "linear", "constant" or "wsd" (constant, then linear
    to 0 over the last `decay_share`). optimizer: "adamw8bit" (bitsandbytes; plain AdamW where that has no kernel for the
    device) or "adamw". precision: "bf16", "fp16" or "fp32". compile: fuse the blocks with torch.compile (needs a C++
    compiler). save_words: also keep `chck_NM` checkpoints at 1..10, 20..100, 200.. million words, as BabyLM asks.
    threads: CPU threads (0 = all).
    """

    steps: int
    learning_rate: float = 2e-4
    schedule: str = "restarts"
    warmup_steps: int = 0
    t0: int = 1000
    t_mult: int = 2
    eta_min: float = 0.1
    decay_share: float = 0.2
    optimizer: str = "adamw8bit"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.02
    clip: float = 0.3
    accumulation: int = 1
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False
    workers: int = 1
    threads: int = 0
    log_every: int = 50
    save_every: int = 500
    keep: int = 2
    save_words: bool = False
    report_to: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "schedule": ("restarts", "cosine", "linear", "constant", "wsd"),
            "optimizer": ("adamw8bit", "adamw"),
            "precision": ("bf16", "fp16", "fp32"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"training.{name}: {getattr(self, name)!r}{nearest(getattr(self, name), allowed)}")
        for name in ("steps", "accumulation", "log_every", "save_every", "keep", "t0", "t_mult"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(f"training.{name} must be a whole number of at least 1, not {getattr(self, name)!r}")
        if not self.learning_rate > 0:
            raise ConfigError(f"training.learning_rate must be above 0, not {self.learning_rate!r}")

    def arguments(self, output: str) -> Any:
        """transformers' TrainingArguments for this run on the device at hand."""
        import torch
        from transformers import TrainingArguments

        cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        return TrainingArguments(
            output_dir=output,
            max_steps=self.steps,
            per_device_train_batch_size=1,  # an item of the dataset is a whole batch
            gradient_accumulation_steps=self.accumulation,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            adam_beta1=self.betas[0],
            adam_beta2=self.betas[1],
            max_grad_norm=self.clip,
            warmup_steps=self.warmup_steps,
            bf16=self.precision == "bf16",
            fp16=self.precision == "fp16",
            use_cpu=cpu,
            optim="adamw_torch_fused",
            gradient_checkpointing=self.gradient_checkpointing,
            logging_steps=self.log_every,
            logging_nan_inf_filter=False,
            save_steps=self.save_every,
            save_total_limit=self.keep,
            dataloader_num_workers=self.workers,
            dataloader_prefetch_factor=4 if self.workers else None,
            remove_unused_columns=False,
            report_to=list(self.report_to) or "none",
            disable_tqdm=True,
            seed=self.seed,
            data_seed=self.seed,
            ddp_find_unused_parameters=True,  # a batch of text leaves the vision side without gradients
            ddp_broadcast_buffers=False,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
