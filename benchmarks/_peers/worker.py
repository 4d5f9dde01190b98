"""One contender in a process of its own, so that its memory is its own; `peers.py` starts it and asks.

    python -m _peers.worker NAME build|serve FILE     (the first line of stdin is the configuration)

A line of JSON in, a line of JSON out. What libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from itertools import pairwise
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from _peers import CONTENDERS, Network
from bitmar.core.config import ModelConfig


def main(name: str, task: str, path: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    setup = json.loads(sys.stdin.readline())
    config, capacity = ModelConfig.from_dict(setup["config"]), setup["capacity"]
    contender = CONTENDERS[name]
    module = importlib.import_module(f"_peers.{contender.module}")
    if task == "build":
        print(json.dumps(str(module.build(config, contender.kind, Path(path), capacity))), file=answers)
        return
    network = module.load(Path(path), config, contender.kind, capacity)
    for line in sys.stdin:
        print(json.dumps(answer(network, config.vocab_size, **json.loads(line))), file=answers)


def answer(network: Network, vocabulary: int, prompt: int, steps: int) -> dict[str, Any]:
    """For a prompt of N random tokens, and for the steps after it: seconds and CPU seconds. Peak RSS, bytes."""
    ids = np.random.default_rng(0).integers(vocabulary, size=prompt)
    times = [(perf_counter(), process_time())]
    token = network.prefill(ids)
    times.append((perf_counter(), process_time()))
    network.decode(token, steps)
    times.append((perf_counter(), process_time()))
    prefill, decode = ([after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(times))
    return {"prefill": prefill, "decode": decode, "peak_rss": peak_rss(), "detail": network.detail}


def peak_rss() -> int:
    """Bytes. Linux counts the parent's memory at the fork into ru_maxrss, but not into VmHWM."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main(*sys.argv[1:])
