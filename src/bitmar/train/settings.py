"""How a run is trained: the `training:` part of a recipe, and its translation into transformers' words."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from bitmar.core.errors import ConfigError, DependencyError, nearest, told

_MOST = (1 << 31) - 1  # of a whole number; the libraries below count in 32 bits
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a mapping"}


def from_mapping(cls: type, values: Mapping[str, Any] | None, where: str) -> Any:
    """Builds a dataclass from a recipe's mapping, nested ones too.

    Raises ConfigError, beginning with `where`, for a key that is unknown (it names the nearest) or missing, for a value
    of another type than the field's, and for whatever the class itself refuses.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected a mapping, found {values!r:.60}")
    known = {f.name: f for f in fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), known)}")
    for name, f in known.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}: the key {name!r} is missing")
    kinds = get_type_hints(cls)
    arguments = {key: _value(value, kinds[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(value: Any, kind: Any, where: str) -> Any:
    """`value` as the annotation `kind` wants it. YAML reads 4e-3 as text; a list of one may come without brackets."""
    if get_origin(kind) in (Union, types.UnionType):  # X | None
        kind = next(k for k in get_args(kind) if k is not type(None)) if value is not None else type(None)
    if kind is type(None) or is_dataclass(value):
        return value
    if is_dataclass(kind):
        return from_mapping(kind, value, where)  # type: ignore[arg-type]
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is tuple:
        return _items([value] if isinstance(value, str) else value, inner, where)
    if origin is float and type(value) in (int, str):
        value = _number(value)
    if type(value) is not origin or (origin is float and not math.isfinite(value)):
        raise ConfigError(f"{where} must be {_WORDS[origin]}, not {told(value, 60)}")
    if origin is int and abs(value) > _MOST:
        raise ConfigError(f"{where} is too large: {told(value, 60)}, the most is {_MOST:,}")
    return value


def check_ranges(config: Any, **ranges: tuple[float, float]) -> None:
    """Raises ConfigError for a field outside of its range, both ends of which are allowed."""
    for name, (low, high) in ranges.items():
        if not low <= (value := getattr(config, name)) <= high:
            raise ConfigError(f"{name} is a number from {low:,} to {high:,}, not {value:,}")


def _items(values: Any, kinds: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    """For tuple[X, ...] any number of items, for tuple[X, Y] two."""
    open_ended = kinds[-1] is ...
    if not isinstance(values, list | tuple) or not (open_ended or len(values) == len(kinds)):
        raise ConfigError(f"{where} must be a list{'' if open_ended else f' of {len(kinds)}'}, not {values!r:.60}")
    return tuple(_value(v, kinds[0] if open_ended else kinds[i], where) for i, v in enumerate(values))


def _number(value: int | str) -> Any:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return value  # its type is reported


@dataclass(frozen=True)
class Training:
    """Optimisation of one run; the defaults are the paper's (section 4.2) where it gives one.

    steps: optimiser steps. accumulation: batches per step. schedule: "restarts" (SGDR, arXiv 1608.03983: first period
    t0, growing by t_mult, never below eta_min * learning_rate), "cosine", "linear", "constant" or "wsd" (constant, then
    linear to 0 over the last `decay_share`). optimizer: "adamw8bit" (bitsandbytes; plain AdamW where that has no kernel
    for the device) or "adamw". precision: "bf16", "fp16" (GPU), "fp32" or "auto", which is bf16 where the device
    computes it (`computes_bf16`) and fp32 elsewhere. compile: fuse the blocks with torch.compile (needs a C++
    compiler). workers: processes that prepare batches. log_every, save_every: in steps; keep: how many
    checkpoints. save_words: also keep `chck_NM` checkpoints at 1..10, 20..100, 200.. million words, as BabyLM asks.
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
    precision: str = "auto"
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
            "precision": ("auto", "bf16", "fp16", "fp32"),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} is one of {', '.join(allowed)}, not {value!r}{nearest(value, allowed)}")
        for name in ("steps", "accumulation", "log_every", "save_every", "keep", "t0", "t_mult"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "clip", "workers", "threads", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be below 0, but is {getattr(self, name)}")
        check_ranges(self, accumulation=(1, 65_536), workers=(0, 1024), threads=(0, 4096))
        if not 0 < self.learning_rate <= 100:
            raise ConfigError(f"learning_rate must be above 0, at most 100, not {self.learning_rate}")
        if not 0 <= self.eta_min <= 1:
            raise ConfigError(f"eta_min is a share of learning_rate between 0 and 1, not {self.eta_min}")
        if not 0 < self.decay_share <= 1:
            raise ConfigError(f"decay_share is a share of the steps above 0, at most 1, not {self.decay_share}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be at least 0 and below 1, not {list(self.betas)}")

    def arguments(self, output: str) -> Any:
        """transformers' TrainingArguments for this run on the device at hand. ConfigError if it cannot do this."""
        import torch
        from transformers import TrainingArguments

        self._check_reports()
        cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
        if cpu and self.precision == "fp16":
            raise ConfigError("precision: fp16 needs a GPU and there is none here; take auto, bf16 or fp32")
        names = TrainingArguments.__dataclass_fields__
        recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
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
            bf16=self.precision == "bf16" or (self.precision == "auto" and computes_bf16()),
            fp16=self.precision == "fp16",
            use_cpu=cpu,
            optim="adamw_torch_fused",
            logging_steps=self.log_every,
            logging_nan_inf_filter=False,
            save_steps=self.save_every,
            dataloader_num_workers=self.workers,
            dataloader_prefetch_factor=4 if self.workers else None,
            dataloader_pin_memory=not cpu,
            remove_unused_columns=False,
            report_to=list(self.report_to) or "none",
            disable_tqdm=True,
            seed=self.seed,
            data_seed=self.seed,
            ddp_find_unused_parameters=True,  # a batch of text leaves the vision side without gradients
            ddp_broadcast_buffers=False,
            **{recompute: self.gradient_checkpointing},
        )

    def _check_reports(self) -> None:
        from transformers.integrations import get_available_reporting_integrations
        from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

        for name in self.report_to:
            if name not in (*INTEGRATION_TO_CALLBACK, "all", "none"):
                raise ConfigError(
                    f"report_to: transformers knows no {name!r:.60}{nearest(name, INTEGRATION_TO_CALLBACK)}"
                )
            if name in INTEGRATION_TO_CALLBACK and name not in get_available_reporting_integrations():
                raise DependencyError(f"report_to: {name} is not installed: pip install {name}")


def computes_bf16() -> bool:
    """Whether the device at hand multiplies bfloat16 by itself. Where it only imitates that, float32 is faster."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
