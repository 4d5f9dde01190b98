"""`bitmar serve` as a process: how it starts, reloads, stops, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bitmar import load

from .._without import without

httpx = pytest.importorskip("httpx", reason="the server needs bitmar[serve]")
pytest.importorskip("uvicorn", reason="the server needs bitmar[serve]")


class Process:
    """A server of its own process, at `url` once it has said so."""

    def __init__(self, *arguments: Any) -> None:
        command = [sys.executable, "-m", "bitmar", "serve", "--port", "0", *map(str, arguments)]
        self.child = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert self.child.stderr is not None
        self.first = self.child.stderr.readline()
        self.url = next((word for word in self.first.split() if word.startswith("http://")), "")
        self.lines: list[str] = []
        threading.Thread(target=lambda: self.lines.extend(self.child.stderr or ()), daemon=True).start()

    def end(self, number: int) -> int:
        self.child.send_signal(number)
        return self.child.wait(60)

    def logs(self, words: str, seconds: float = 30) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if any(words in line for line in self.lines):
                return True
            time.sleep(0.02)
        return False


@pytest.fixture
def start(model: Path) -> Iterator[Callable[..., Process]]:
    """start(option, ...) -> a process that serves the tiny model."""
    made: list[Process] = []

    def one(*arguments: Any) -> Process:
        made.append(Process("--model", model, *arguments))
        return made[-1]

    yield one
    for process in made:
        process.child.kill()
        process.child.wait(60)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_it_starts_and_stops(start: Callable[..., Process], tmp_path: Path, name: str) -> None:
    server = start("--memory", tmp_path / "home.mem")
    assert httpx.get(f"{server.url}/health").json()["model"] == "tiny"
    assert httpx.get(f"{server.url}/health", headers={"host": "evil.example"}).status_code == 421
    assert httpx.post(f"{server.url}/v1/remember", json={"text": "Rex"}).status_code == 200
    assert server.end(getattr(signal, name)) == 0
    assert not any("Traceback" in line for line in server.lines)
    assert len(load(server_model(server)).memory(tmp_path / "home.mem")) == 1


def server_model(server: Process) -> str:
    arguments = server.child.args
    assert isinstance(arguments, list)
    return str(arguments[arguments.index("--model") + 1])


def test_what_is_being_answered_is_finished(start: Callable[..., Process]) -> None:
    server = start()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 600, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.child.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]" and server.child.wait(60) == 0


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_sighup_reloads(start: Callable[..., Process]) -> None:
    server = start()
    server.child.send_signal(signal.SIGHUP)
    assert server.logs("reloaded: tiny")
    assert httpx.get(f"{server.url}/health").json()["reloads"] == 1


def test_a_kill_in_the_middle_leaves_the_memory_whole(
    start: Callable[..., Process], tmp_path: Path, model: Path
) -> None:
    server, path = start("--memory", tmp_path / "home.mem"), tmp_path / "home.mem"
    said: list[int] = []

    def remember() -> None:
        with suppress(httpx.HTTPError):
            for i in range(10_000):
                httpx.post(f"{server.url}/v1/remember", json={"text": f"thing {i}"}).raise_for_status()
                said.append(i)

    thread = threading.Thread(target=remember)
    thread.start()
    while len(said) < 8:
        time.sleep(0.01)
    server.end(signal.SIGKILL)
    thread.join(60)
    with load(model).memory(path) as memory:
        kept = [episode.text for episode in memory.inspect()]
        assert memory.stats()["damaged"] == 0 and len(kept) == 4
        assert f"thing {said[-1]}" in kept  # what was answered had been kept
        memory.remember("afterwards")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "none.bitmar"], "no such file"),
        (["--memory", "nowhere/home.mem"], "no folder"),
        (["--api-key", " "], "API key is empty"),
        (["--host", "203.0.113.7"], ""),
    ],
)
def test_what_cannot_start_is_one_line(cli: Any, model: Path, arguments: list[str], says: str) -> None:
    result = cli("serve", "--port", "0", "--model", model, *arguments)
    assert result.exit_code == 2 and says in result.stderr.splitlines()[-1]


def test_a_port_that_is_taken(cli: Any, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cli("serve", "--port", taken.getsockname()[1], "--model", model)
    assert result.exit_code == 2 and "in use" in result.stderr.splitlines()[-1]


def test_without_its_packages() -> None:
    assert "pip install 'bitmar[serve]'" in without("uvicorn", "serve")
