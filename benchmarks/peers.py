"""bitmar beside other engines on the same machine, in the same minutes, with networks of the same dimensions.

    python benchmarks/peers.py --json out/peers.json --markdown docs/benchmarks.md

The peers are plain causal networks as deep and wide as BitMar's text path, with random weights, in PyTorch, ONNX
Runtime and llama.cpp (pip install '.[train,bench]'). bitmar computes its whole step: a picture, the memory, both
stacks, the head. Each contender has one thread and a process of its own; a round asks every one of them in turn.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from _machine import machine, publish, run
from _peers import BASELINE, CONTENDERS
from _peers.process import Process, build
from _peers.report import document, figures, table

from bitmar.console import progress, say
from bitmar.core.config import ModelConfig
from bitmar.core.container import open_container
from bitmar.core.errors import BitMarError, ConfigError, nearest
from bitmar.core.files import write_atomically

PREFILL = 512  # tokens

Measured = dict[str, dict[str, list[tuple[float, float]]]]  # workload -> contender -> (seconds, CPU seconds) a token


def main(
    model: Annotated[
        Path | None, typer.Option(help="Take dimensions and weights of this .bitmar file. Default: bitmar-14m, random.")
    ] = None,
    contexts: Annotated[
        list[int] | None, typer.Option(help="Cached tokens when decoding. Default: 64 and 1024.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each asks every contender once for each figure.")] = 15,
    steps: Annotated[int, typer.Option(min=2, help="Decoding steps of a round, centred on the context.")] = 64,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(CONTENDERS)}; bitmar always runs. Default: all.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the table here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Measure decoding, prefill, memory and file size of bitmar and its peers."""
    contexts = contexts or [64, 1024]
    if any(context <= steps // 2 for context in contexts):
        raise ConfigError(f"{steps} steps centred on a context of {min(contexts)} would begin before the text")
    config = open_container(model).config if model else ModelConfig()
    workloads = {f"decode at {context:,}": (context - steps // 2, steps) for context in contexts}
    workloads[f"prefill of {PREFILL}"] = (PREFILL, 0)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running, files, absent = start(
            chosen(only), model, config, max(*contexts, PREFILL) + steps, Path(folder), stack
        )
        measured, memory = measure(running, workloads, rounds)
    found = figures(measured, memory, files)
    labels = {name: CONTENDERS[name].about + (f", {p.detail}" if p.detail else "") for name, p in running.items()}
    shown = table(found, labels, absent, list(workloads))
    print(shown)
    versions = {p: v for name in running for p in CONTENDERS[name].packages if (v := version(p))}
    if markdown is not None:
        command = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
        page = document(
            shown, method=method(config, rounds, steps), command=command, machine=machine(), versions=versions
        )
        write_atomically(markdown, page.encode())
    data = f"random tokens; medians of {rounds} interleaved rounds of {steps} steps, one thread"
    details = {"config": config.to_dict(), "versions": versions, "absent": absent, "seconds_and_cpu": measured}
    publish("peers", found, data=data, out=json, details=details)


def chosen(only: list[str] | None) -> list[str]:
    """Names in their order, bitmar first."""
    for name in only or ():
        if name not in CONTENDERS:
            raise ConfigError(f"unknown contender {name!r}{nearest(name, CONTENDERS)}; see --help")
    return [name for name in CONTENDERS if not only or name in only or name == BASELINE]


def start(
    names: list[str], model: Path | None, config: ModelConfig, capacity: int, folder: Path, stack: ExitStack
) -> tuple[dict[str, Process], dict[str, int], dict[str, str]]:
    """Build and load every contender: those that run, their files' bytes, and why the others are absent."""
    running: dict[str, Process] = {}
    files: dict[str, int] = {}
    absent: dict[str, str] = {}
    for name in names:
        contender = CONTENDERS[name]
        try:
            given = model.resolve() if model and name == BASELINE else None
            path = given or build(contender, config, capacity, folder)
            process = stack.enter_context(Process(contender, "serve", path, config, capacity, folder))
            process.ask(prompt=PREFILL, steps=4)  # warm, and sure to work
        except BitMarError as error:
            if name == BASELINE:
                raise
            absent[name] = str(error)
            say(f"{name} is absent: {error}")
        else:
            running[name], files[name] = process, path.stat().st_size
    return running, files, absent


def measure(
    running: dict[str, Process], workloads: dict[str, tuple[int, int]], rounds: int
) -> tuple[Measured, dict[str, int]]:
    """Seconds a token by workload, contender and round; and each contender's peak RSS, bytes."""
    measured: Measured = {workload: {name: [] for name in running} for workload in workloads}
    memory: dict[str, int] = {}
    with progress() as bar:
        task = bar.add_task("rounds", total=rounds)
        for _ in range(rounds):
            for workload, (prompt, steps) in workloads.items():
                for name, process in running.items():
                    answer = process.ask(prompt, steps)
                    tokens, (seconds, cpu) = (steps, answer["decode"]) if steps else (prompt, answer["prefill"])
                    measured[workload][name].append((seconds / tokens, cpu / tokens))
                    memory[name] = answer["peak_rss"]
            bar.advance(task)
    return measured, memory


def method(config: ModelConfig, rounds: int, steps: int) -> str:
    """How it was measured, in words."""
    blocks = config.encoder_layers + config.decoder_layers
    return (
        f"Networks of one size: width {config.hidden_size}, {blocks} causal blocks, {config.num_heads} heads, FFN "
        f"{config.intermediate_size}, vocabulary {config.vocab_size:,}, untied head. bitmar computes its whole step, "
        f"with {config.vision_tokens} vision tokens and a memory of {config.memory_slots} slots; the others are plain "
        "causal networks with random weights. One thread each, greedy, KV cache, driven from Python. A decoding "
        f"figure is the median of {rounds} rounds of {steps} steps centred on the context; a round runs every "
        "contender once, and the ratios are medians of the rounds' ratios. Memory is the peak of the contender's "
        "process with Python and all its libraries."
    )


def version(package: str) -> str | None:
    """None for a package that runs without being installed, such as bitmar from its source folder."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    run(main)
