"""What a run says about itself: loss terms, memory, gates, quantisation, held-out perplexity, words seen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from transformers import TrainerCallback

LIVE = 0.1  # a slot is live when it gets at least this part of an even share of the reads


def loss_terms(output: Any) -> dict[str, Tensor]:
    """The scalars of one training batch that the log averages: every term of the loss, and the memory's utilisation."""
    names = {"lm_loss": "lm", "contrastive_loss": "contrastive", "memory_loss": "memory", "alignment": "alignment"}
    terms = {short: output[name] for name, short in names.items() if output.get(name) is not None}
    weights = output.get("read_weights")
    if weights is not None:
        terms |= memory_utilisation(weights.detach())
    return terms


def memory_utilisation(weights: Tensor) -> dict[str, Tensor]:
    """From read weights (B, T, K): entropy of a read and of all reads together (1 = even), and the share of live slots."""
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
    found = {n: p for n, p in model.named_parameters() if n.endswith("memory_gate")}
    return {f"gate_{i}": round(abs(p.item()), 5) for i, (_, p) in enumerate(sorted(found.items()))}


@torch.no_grad()
def evaluate(model: torch.nn.Module, sources: dict[str, Any], batches: int = 16) -> dict[str, float]:
    """Held-out loss per source, with the memory read and with the read ablated, and alignment where there are pictures."""
    was_training = model.training
    model.eval()
    result: dict[str, float] = {}
    device = next(model.parameters()).device
    for name, source in sources.items():
        sums, count = {"loss": 0.0, "memory_off": 0.0, "alignment": 0.0}, 0
        number = min(batches, len(source))
        for k in range(number):
            batch = {n: torch.as_tensor(v).to(device) for n, v in source[k].items()}
            items = int((batch["labels"][:, 1:] != -100).sum())
            out = model(**batch, logits_to_keep=1)
            off = model(**batch, logits_to_keep=1, read_memory=False)
            sums["loss"] += out.lm_loss.item() * items
            sums["memory_off"] += off.lm_loss.item() * items
            sums["alignment"] += (out.alignment.item() if out.alignment is not None else 0.0) / number
            count += items
        result[f"{name}_loss"] = round(sums["loss"] / count, 4)
        result[f"{name}_perplexity"] = round(math.exp(sums["loss"] / count), 3)
        result[f"{name}_memory_gain"] = round((sums["memory_off"] - sums["loss"]) / count, 5)
        if sums["alignment"]:
            result[f"{name}_alignment"] = round(sums["alignment"], 4)
    model.train(was_training)
    return result


class WordCounter:
    """Whitespace-separated words in a batch of ids: tokens that begin one, by a table over the vocabulary."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.starts = torch.zeros(vocab_size, dtype=torch.bool)
        for token, number in tokenizer.get_vocab().items():
            self.starts[number] = token.startswith("Ġ")
        special = [tokenizer.token_to_id(t) for t in ("<bos>", "<|endoftext|>")]
        self.starts[[t for t in special if t is not None]] = True  # a text's first word has no space before it

    def count(self, ids: Tensor) -> int:
        return int(self.starts[ids.cpu()].sum())


def babylm_milestones() -> list[int]:
    """Words at which BabyLM wants a checkpoint, in millions: 1..10, then by 10 to 100, then by 100 to 1,000."""
    return [*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100)]


class Display(TrainerCallback):
    """A progress bar with the latest figures; on anything that is no terminal, a line per log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.start()
        self.task = self.bar.add_task(self.name, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            shown = {k: f"{v:.4g}" for k, v in logs.items() if isinstance(v, float) and k not in ("epoch", "seconds")}
            line = "  ".join(f"{k} {v}" for k, v in shown.items())
            self.console.print(f"{self.name} {state.global_step}: {line}", highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.stop()


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log.jsonl."""
    import json

    path = Path(folder) / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
