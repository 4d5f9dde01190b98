"""The log of a run: loss terms, memory, gates, quantisation, held-out perplexity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from transformers import TrainerCallback

from bitmar.console import progress
from bitmar.core.files import write_atomically
from bitmar.model.arguments import Rows
from bitmar.train.runs import LOG

LIVE = 0.1  # a slot is live when it gets at least this part of an even share of the reads


def loss_terms(output: Any) -> dict[str, Tensor]:
    """The scalars of one training batch that the log averages: every term of the loss, and the memory's utilisation."""
    names = {"reward": "reward", "lm_loss": "lm", "contrastive_loss": "contrastive", "memory_loss": "memory"}
    names |= {"alignment": "alignment"}
    terms = {short: output[name] for name, short in names.items() if output.get(name) is not None}
    weights = output.get("read_weights")
    if weights is not None:
        terms |= memory_utilisation(weights.detach())
    return terms


def memory_utilisation(weights: Tensor) -> dict[str, Tensor]:
    """From read weights (B, T, K): entropy of a read and of all reads together (1 = even), share of live slots."""
    k = weights.shape[-1]
    weights = weights[:: max(1, len(weights) // 8)].float()  # a sample of the sequences is enough
    share = weights.mean((0, 1))

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp(min=1e-9).log()).sum(-1).mean() / math.log(k)

    return {
        "read_entropy": entropy(weights),
        "slot_entropy": entropy(share),
        "live_slots": (share >= LIVE / k).float().mean(),
    }


def zero_fractions(model: torch.nn.Module) -> dict[str, float]:
    """E_q of every ternary layer (paper section 5.1)."""
    return {name: m.zero_fraction() for name, m in model.named_modules() if hasattr(m, "zero_fraction")}


def gates(model: torch.nn.Module) -> dict[str, float]:
    """|g_l| of every decoder layer."""
    found = [p for name, p in model.named_parameters() if name.endswith("memory_gate")]
    return {f"gate_{i}": round(abs(p.item()), 5) for i, p in enumerate(found)}


def forward_arguments(batch: Mapping[str, Any], *, episodes: int = 1, one_shot: bool = False) -> dict[str, Any]:
    """A batch of `bitmar.data` as the model's `forward` takes it."""
    arguments = dict(batch)
    rows = Rows(episodes, one_shot, image_ids=arguments.pop("image_ids", None))
    return {**arguments, "rows": rows}


@torch.no_grad()
def evaluate(model: torch.nn.Module, sources: dict[str, Any], batches: int = 16) -> dict[str, float]:
    """Held-out loss and perplexity per source, what the memory's read gains, and alignment where there are pictures.

    The loss is per predicted token over the first `batches` of each source; the memory is M_0, which nothing writes.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    result: dict[str, float] = {}
    for name, source in sources.items():
        loss = without = alignment = 0.0
        tokens = rows = 0
        for k in range(min(batches, len(source))):
            batch = forward_arguments({n: torch.as_tensor(v).to(device) for n, v in source[k].items()})
            on = model(**batch, logits_to_keep=1)
            off = model(**batch, logits_to_keep=1, read_memory=False)
            predicted = int((batch["labels"][:, 1:] != -100).sum())
            loss += on.lm_loss.item() * predicted
            without += off.lm_loss.item() * predicted
            tokens += predicted
            if on.alignment is not None:
                alignment += on.alignment.item() * len(batch["labels"])
                rows += len(batch["labels"])
        if tokens:
            result[f"{name}_loss"] = round(loss / tokens, 4)
            result[f"{name}_perplexity"] = round(math.exp(min(loss / tokens, 100.0)), 3)
            result[f"{name}_memory_gain"] = round((without - loss) / tokens, 5)
        if rows:
            result[f"{name}_alignment"] = round(alignment / rows, 4)
    model.train(was_training)
    return result


@torch.no_grad()
def save_attention_maps(model: torch.nn.Module, sources: dict[str, Any], path: Path) -> None:
    """The attention of the first held-out row of each source, float16: a file of some 100 kB.

    `NAME_tokens` (T,), at most 64 of them; `NAME_layers` (L, T, T), encoder before decoder, the mean over the heads;
    `NAME_image` (h, T, N) from the tokens to the vision tokens, where there is a picture.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    found: dict[str, Any] = {}
    for name, source in sources.items():
        row = forward_arguments({n: torch.as_tensor(v)[:1].to(device) for n, v in source[0].items()})
        row.pop("labels", None)  # one rank asks alone: a loss would wait for the pictures of the others
        for cut in ("input_ids", "attention_mask"):
            row[cut] = row[cut][:, : min(64, int(row["attention_mask"].sum()))]
        output = model(**row, logits_to_keep=1, output_attentions=True)
        found[f"{name}_tokens"] = row["input_ids"][0]
        found[f"{name}_layers"] = torch.stack([a[0].mean(0) for a in output.attentions]).half()
        if output.cross_attentions:
            found[f"{name}_image"] = output.cross_attentions[0][0].half()
    model.train(was_training)
    with open(path, "wb") as file:
        np.savez_compressed(file, **{n: v.cpu().numpy() for n, v in found.items()})


class Display(TrainerCallback):
    """A line per log and, on a terminal, a progress bar. One process of many shows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.console = Console(stderr=True)
        self.bar = progress(to=self.console, hidden=not self.console.is_terminal)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.bar.add_task(self.name, total=state.max_steps, completed=state.global_step)
            self.bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for task in self.bar.task_ids:
            self.bar.update(task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            shown = {k: f"{v:.4g}" for k, v in logs.items() if isinstance(v, float) and k not in ("epoch", "seconds")}
            line = "  ".join(f"{k} {v}" for k, v in shown.items())
            self.console.print(f"{self.name} {state.global_step}: {line}", highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Gives the terminal back, also after an error."""
        self.bar.stop()


class LogFile(TrainerCallback):
    """Every log as a line of `log.jsonl`. A resumed run cuts off the lines that its checkpoint does not know."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LOG

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, "".join(_line(entry) for entry in state.log_history).encode())

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(state.log_history[-1]))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
