"""The costs of the memory: time per token, time per write, RAM of a process. One thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import numpy as np

from bitmar.api import BitMar
from bitmar.evaluate.ablation_measure import Measure
from bitmar.evaluate.ablation_variants import LITERAL, OFF, ON
from bitmar.runtime.memory import Write
from bitmar.runtime.options import GenerationOptions

CONTEXT = 256
RUNS, STEPS = 20, 12  # a run's time is the median of its steps
_PROCESSES = 3
_GREEDY = GenerationOptions()


def speed(models: Mapping[str, BitMar], *, context: int = CONTEXT, runs: int = RUNS) -> list[Measure]:
    """Milliseconds of a decoding step after `context` tokens, and of a segment of prompt, its write included.

    Mean over runs of the median over STEPS; the variants take turns step by step, so that a slow spell of the machine
    hits all alike.
    """
    ids = np.random.default_rng(0).integers(0, models[ON].config.vocab_size, context)
    segment = np.resize(ids, models[ON].config.memory_segment)
    states = {}
    for name, model in models.items():
        states[name] = model.engine.start()
        states[name].read(ids)

    def step(name: str) -> None:
        states[name].next(5, _GREEDY, 0.0)

    def write(name: str) -> None:
        models[name].engine.start().forward(segment[None], Write.NEVER if name == OFF else Write.ALL)

    return [
        _interleaved(f"a token, context {context}", models, step, runs),
        _interleaved(f"a segment of {len(segment)} tokens, read and written", models, write, max(runs // 4, 1)),
    ]


def _interleaved(name: str, models: Mapping[str, BitMar], work: Callable[[str], None], runs: int) -> Measure:
    medians: dict[str, list[float]] = {variant: [] for variant in models}
    for _ in range(runs):
        times: dict[str, list[float]] = {variant: [] for variant in models}
        for _ in range(STEPS):
            for variant in models:
                begin = perf_counter()
                work(variant)
                times[variant].append(1e3 * (perf_counter() - begin))
        for variant, found in times.items():
            medians[variant].append(median(found))
    values = {variant: np.array(found) for variant, found in medians.items()}
    return Measure("speed", name, "ms", "lower", values, np.ones(runs), cost=True)


def peak_rss(models: Mapping[str, BitMar]) -> Measure:
    """Peak resident memory, MB, of processes that load the model so and write 32 tokens."""
    source, engine = str(models[ON].path.resolve()), models[ON].engine.name
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a pool is not the model's
    values: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(_PROCESSES):
        for name in models:
            command = [sys.executable, "-m", __name__, json.dumps([source, engine, name])]
            done = subprocess.run(command, capture_output=True, check=True, env=environment)
            values[name].append(json.loads(done.stdout))
    found = {name: np.array(peaks) for name, peaks in values.items()}
    return Measure("RAM", "process that writes 32 tokens", "MB, peak", "lower", found, np.ones(_PROCESSES), cost=True)


def _child(source: str, engine: str, variant: str) -> float:
    """What `peak_rss` measures. W_w is uniform here, where its values do not matter."""
    from dataclasses import replace

    from bitmar.core.container import open_container
    from bitmar.evaluate.ablation_variants import literal
    from bitmar.evaluate.tasks._first_token import peak_bytes

    container = open_container(source)
    if variant == OFF:
        container = replace(container, config=replace(container.config, memory_integration="off"))
    elif variant == LITERAL:
        slots = container.config.memory_slots
        container = literal(container, np.full(slots, 1 / slots, np.float32))
    BitMar(container, engine=engine).generate("The", max_tokens=32)
    return peak_bytes() / 1e6


if __name__ == "__main__":
    print(json.dumps(_child(*json.loads(sys.argv[1]))))
