"""Training on machines that fail: two agents of torchrun on this one, each with a disk of its own; gloo on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no torch.distributed", allow_module_level=True)

CHILD = Path(__file__).with_name("child.py")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "GLOO_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # as in recipes/multi_node.sh
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def agent(recipe: Path, log: Path, *arguments: str, mode: tuple[str, ...], **environment: str) -> subprocess.Popen[Any]:
    command = [sys.executable, "-m", "torch.distributed.run", *arguments, str(CHILD), mode[0], str(recipe), *mode[1:]]
    with log.open("a") as output:
        return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT, **environment}, stdout=output, stderr=output)


def test_a_worker_and_a_machine_are_lost_and_the_weights_are_those_of_an_undisturbed_run(
    recipe: dict[str, Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    recipe["stages"][0]["training"] |= {"save_words": False}
    recipe["cache"] = str(tmp_path / "cache")
    whole = {**recipe, "output": str(tmp_path / "whole")}
    port, mode = str(free_port()), ("elastic", str(tmp_path))
    one = ("--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", port)
    undisturbed = agent(write(whole, "whole.yaml"), tmp_path / "whole.log", *one, mode=mode)

    two = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test")
    head = free_port()
    two = (*two, "--rdzv-endpoint", f"127.0.0.1:{head}", "--local-addr", "127.0.0.1", "--max-restarts", "5")
    two = (*two, "--monitor-interval", "0.5")

    def machine(name: str, **environment: str) -> subprocess.Popen[Any]:
        """An agent whose disk is a folder of its own; a new one begins with nothing on it."""
        disk = {"output": str(tmp_path / name / "run"), "cache": str(tmp_path / name / "data")}
        path = write({**recipe, **disk, "checkpoints": f"file://{tmp_path}/reached-by-all"}, f"{name}.yaml")
        return agent(path, tmp_path / f"{name}.log", *two, mode=mode, **environment)

    host = machine("host")
    while host.poll() is None and not answers(head):  # the first agent there is the head, and must not be the lost one
        time.sleep(0.1)
    lost = machine("lost", MORTAL="1")
    new: subprocess.Popen[Any] | None = None
    try:
        assert lost.wait(300) == -signal.SIGKILL, (tmp_path / "lost.log").read_text()[-4000:]
        assert {path.name for path in tmp_path.iterdir()} >= {"5", "7"}  # a worker first, then its agent
        new = machine("new", MORTAL="1")
        for name, process in (("whole", undisturbed), ("host", host), ("new", new)):
            assert process.wait(300) == 0, (tmp_path / f"{name}.log").read_text()[-4000:]
    finally:
        for process in (undisturbed, host, lost, new):
            if process is not None:
                process.kill()
    expected = load_file(tmp_path / "whole" / "all" / "model.safetensors")
    for name in ("reached-by-all", "host/run", "new/run"):
        found = load_file(tmp_path / name / "all" / "model.safetensors")
        assert found.keys() == expected.keys() and all(found[key].equal(expected[key]) for key in found), name
    assert (tmp_path / "reached-by-all" / "model.bitmar").is_file()
    kept = {path.name for path in (tmp_path / "reached-by-all" / "all").glob("checkpoint-*")}
    assert kept == {"checkpoint-8", "checkpoint-10"}


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs of other machines: torchrun says how it was called, srun runs its command, scontrol names the nodes."""
    programs = {
        "torchrun": 'echo "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE $*"',
        "srun": 'shift; exec "$@"',
        "scontrol": "echo node7; echo node8",
    }
    for name, script in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
@pytest.mark.parametrize(
    "script, environment, said",
    [
        ("multi_node", {}, "--nnodes 1 --nproc-per-node 1 --max-restarts 10"),
        ("multi_node", {"NODES": "2", "HEAD": "n:1"}, "--rdzv-endpoint n:1 --rdzv-id bitmar"),
        ("slurm", {"SLURM_GPUS_ON_NODE": "8"}, "--nnodes 2 --nproc-per-node 8 --max-restarts 10"),
        ("slurm", {}, "--rdzv-endpoint node7:20042 --rdzv-id 42"),
    ],
)
def test_scripts_start_the_agents(stubs: Path, script: str, environment: dict[str, str], said: str) -> None:
    recipes = Path(__file__).resolve().parents[2] / "recipes"
    job = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "node[7-8]"}
    done = subprocess.run(
        ["sh", str(recipes / f"{script}.sh"), "recipe.yaml", "--set", "output=a b"],
        env={**os.environ, **job, **environment},
        cwd=recipes.parent,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("1 ") and said in done.stdout, done.stderr
    assert done.stdout.endswith("-m bitmar train recipe.yaml --set output=a b\n")
