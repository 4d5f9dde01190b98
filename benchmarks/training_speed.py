"""Training speed at the paper's dimensions: tokens a second, peak memory, and the share of the machine's peak.

    python benchmarks/training_speed.py --compile --json out/training_speed.json

The model is `bitmar-14m` with its whole vocabulary of 50,257; a step is 8 rows of 256 random tokens, each row beside a
picture's 256 x 768 patch features, through all three losses, backward, clipping and AdamW, in bfloat16 over float32
weights.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any

import torch
import typer
from _machine import publish, run

from bitmar.core.config import ModelConfig
from bitmar.model.configuration_bitmar import BitMarConfig
from bitmar.model.modeling_bitmar import BitMarForCausalLM

AUTHORS = 940.0  # tokens a second of the authors' code: two cores, 8 x 256 tokens, same vocabulary
ROWS, LENGTH = 8, 256


def main(
    threads: Annotated[int, typer.Option(help="CPU threads; 0: all cores.")] = 0,
    steps: Annotated[int, typer.Option(help="Measured steps, after the warm-up.")] = 10,
    warmup: Annotated[int, typer.Option(help="Steps before measuring.")] = 3,
    rows: Annotated[int, typer.Option(help="Rows of 256 tokens in a batch.")] = ROWS,
    pictures: Annotated[bool, typer.Option(help="A picture beside every row; without: text alone.")] = True,
    compile: Annotated[bool, typer.Option(help="Fuse each block with torch.compile (needs a C++ compiler).")] = False,
    profile: Annotated[bool, typer.Option(help="Also print the operations that take longest.")] = False,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Measure training steps of the paper's model."""
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = BitMarForCausalLM(BitMarConfig(**ModelConfig().to_dict())).to(device).train()
    if compile:
        for block in (*model.model.encoder.layers, *model.model.decoder.layers):
            block.compile()
    step = make_step(model, make_batch(model.config, rows, pictures, device))
    for _ in range(warmup):
        step()
    cpu = process_time()
    seconds = [_timed(step, device) for _ in range(steps)]
    cpu = (process_time() - cpu) / steps
    if profile:
        print_profile(step)
    tokens = rows * LENGTH
    speed = tokens / median(seconds)
    operations, reachable = step_operations(model, rows, pictures), peak_operations(device)
    figures: dict[str, Any] = {
        "tokens_per_second": speed,
        "fastest_step": tokens / min(seconds),
        "slowest_step": tokens / max(seconds),
        "tokens_per_cpu_second": tokens / cpu,  # what a busy machine would give if it were idle, with one thread
        "times_authors_940": speed / AUTHORS if device.type == "cpu" else None,
        "peak_memory_mb": peak_memory(device),
        "share_of_peak": operations / median(seconds) / reachable,
        "peak_tflops": reachable / 1e12,
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "compiled": compile,
    }
    data = f"random tokens, {rows} x {LENGTH}{', a picture for each row' if pictures else ''}; median of {steps} steps"
    publish("training_speed", figures, data=data, out=json)


def make_batch(config: BitMarConfig, rows: int, pictures: bool, device: torch.device) -> dict[str, torch.Tensor]:
    """Full rows: no padding that would count as tokens."""
    ids = torch.randint(config.vocab_size, (rows, LENGTH), device=device)
    batch = {"input_ids": ids, "labels": ids}
    if pictures:
        batch["vision_features"] = torch.randn(rows, config.vision_grid**2, config.vision_dim, device=device)
    return batch


def make_step(model: BitMarForCausalLM, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """One optimiser step with the paper's settings."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, betas=(0.9, 0.999), weight_decay=0.02, fused=True)
    kind = parameters[0].device.type

    def step() -> None:
        with torch.autocast(kind, torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.3)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _timed(step: Callable[[], object], device: torch.device) -> float:
    start = perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


def peak_memory(device: torch.device) -> float:
    """MB (1,000,000 bytes): of the whole process on a CPU, of tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def step_operations(model: BitMarForCausalLM, rows: int, pictures: bool) -> float:
    """Floating-point operations of the matrix products in a step; backward counts twice forward.

    Every matrix meets every token, those of the vision side every pooled patch; attention and the memory's
    reads come on top.
    """
    config = model.config
    tokens, vision_tokens = rows * LENGTH, math.ceil(config.vision_grid / config.vision_pool) ** 2
    forward = 0.0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            on_vision = name.startswith("model.vision.") or name.endswith("fusion.kv_proj")
            if pictures or not (on_vision or ".fusion." in name):
                forward += 2.0 * module.weight.numel() * (rows * vision_tokens if on_vision else tokens)
    layers = config.encoder_layers + config.decoder_layers
    forward += 4.0 * tokens * LENGTH * config.hidden_size * layers  # scores and values, the masked half included
    forward += 4.0 * tokens * config.memory_slots * config.memory_dim
    forward += 4.0 * tokens * vision_tokens * config.hidden_size * pictures
    return 3 * forward


def peak_operations(device: torch.device) -> float:
    """Operations a second of a large bfloat16 product here: what the machine reaches, not what its maker prints."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2.0 * size**3 / min(_timed(lambda: a @ a, device) for _ in range(8))


def print_profile(step: Callable[[], None]) -> None:
    """The operations of three steps, longest first."""
    with torch.profiler.profile() as found:
        for _ in range(3):
            step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=40))


if __name__ == "__main__":
    run(main)
