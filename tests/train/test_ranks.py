"""Data-parallel training: two processes under torchrun, gloo on the CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitmar.model.losses import contrastive_loss
from bitmar.train import ranks


def test_alone_there_is_nothing_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert ranks.world_size() == 1 and ranks.is_main()
    with ranks.main_first(Path("anywhere")):
        ranks.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes_train_one_model(recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path) -> None:
    recipe["cache"] = str(tmp_path / "data")  # built by one of them, while the other waits
    recipe["stages"][0]["training"] |= {"steps": 3, "save_every": 2}
    program, out = Path(__file__).with_name("child.py"), tmp_path / "rank"
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port"]
    done = subprocess.run(
        [sys.executable, *launch, str(free_port()), program, "ranks", write(recipe), out],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    zero, one = (json.loads(Path(f"{out}-{rank}.json").read_text()) for rank in (0, 1))

    assert sorted(zero["batches"] + one["batches"]) == [*range(3 * 2 * 2)]  # steps, accumulation, ranks
    assert zero["weights"] == one["weights"]
    assert zero["words"] == one["words"] > 0
    assert zero["controller"] == one["controller"] is not None  # both decide alike

    # The loss of each rank is that of all rows together, not of its own.
    halves = [torch.tensor(half) for half in zero["pair"]]
    text, vision = torch.cat(halves, dim=1)
    together = contrastive_loss(text, vision, torch.tensor(2.0))[0].item()
    assert zero["gathered"] == pytest.approx(together) and one["gathered"] == pytest.approx(together)

    assert "skipped" not in done.stderr and (tmp_path / "run" / "model.bitmar").is_file()
    checkpoint = tmp_path / "run" / "all" / "checkpoint-2"
    assert {"rng_state_0.pth", "rng_state_1.pth", "trainer_state.json"} <= {file.name for file in checkpoint.iterdir()}
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "all" / "log.jsonl").read_text().splitlines()]
    assert steps[:3] == [1, 2, 3]  # one writer
