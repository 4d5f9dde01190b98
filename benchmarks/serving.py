"""What `bitmar serve` stands: many clients at once on this machine, and a kill -9 in the middle of their remembering.

python benchmarks/serving.py --json out/serving.json
python benchmarks/serving.py --clients 64 --seconds 600
"""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from _machine import publish, run
from startup import sample_photo

from bitmar import load
from bitmar.core.errors import BitMarError

PNG = {"content-type": "image/png"}  # what the sample photo is
ALONE = 50  # requests of one client, before and between


def main(
    clients: Annotated[int, typer.Option(help="At once.")] = 64,
    seconds: Annotated[float, typer.Option(help="For so long.")] = 30.0,
    model: Annotated[
        str | None, typer.Option(help="A .bitmar file, folder or Hub id. Default: the bundled one.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Caption a photo over HTTP from many clients; a client that is told 429 waits as long as it is told to."""
    with TemporaryDirectory() as folder:
        photo = sample_photo(Path(folder)).read_bytes()
        memory = Path(folder) / "home.mem"
        server, url = start(model, memory)
        try:
            figures = measure(server.pid, url, photo, clients, seconds)
            figures["kill -9 in the middle"] = killed(server, url, memory, model)
        finally:
            server.kill()
            server.wait()
    publish("serving", figures, data=f"{clients} clients on the loopback, {seconds:g} s, one photo", out=json)


def start(model: str | None, memory: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server of its own process."""
    command = [sys.executable, "-m", "bitmar", "serve", "--port", "0", "--memory", str(memory)]
    log = memory.with_name("server.log")
    with log.open("w") as stderr:
        server = subprocess.Popen([*command, *(["--model", model] if model else [])], stderr=stderr)
    while server.poll() is None:
        sleep(0.1)
        if found := re.search(r"http://[\d.:]+", log.read_text()):
            return server, found[0]
    raise BitMarError(f"the server did not start: {log.read_text()}")


def measure(pid: int, url: str, photo: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Latencies alone and together, in milliseconds, and how the process has grown."""
    with httpx.Client(base_url=url, timeout=60) as client:
        one(client, photo)
        alone = [one(client, photo) for _ in range(ALONE)]
        first = [first_token(client, photo) for _ in range(ALONE)]
        asyncio.run(together(url, photo, clients, min(5.0, seconds)))  # buffers and threads are there from here on
        before = resident(pid)
        times, statuses = asyncio.run(together(url, photo, clients, seconds))
        after = resident(pid)
    errors = {name: count for name, count in statuses.items() if name not in ("200", "429")}
    return {
        "alone, median, ms": 1e3 * median(alone),
        "first SSE token, median, ms": 1e3 * median(first),
        "requests answered": statuses["200"],
        "answered a second": statuses["200"] / seconds,
        "told to come again (429)": statuses["429"],
        "errors": errors or 0,
        "p50, ms": 1e3 * float(np.quantile(times, 0.5)),
        "p99, ms": 1e3 * float(np.quantile(times, 0.99)),
        "p99 / median alone": float(np.quantile(times, 0.99)) / median(alone),
        "RSS growth, MB": (after - before) / 1e6,
    }


def one(client: httpx.Client, photo: bytes) -> float:
    """Seconds of a caption."""
    begun = perf_counter()
    client.post("/v1/caption", content=photo, headers=PNG).raise_for_status()
    return perf_counter() - begun


def first_token(client: httpx.Client, photo: bytes) -> float:
    """Seconds to the first event of a stream."""
    begun = perf_counter()
    with client.stream("POST", "/v1/caption?stream=true", content=photo, headers=PNG) as answer:
        next(answer.iter_lines())
        return perf_counter() - begun


async def together(url: str, photo: bytes, clients: int, seconds: float) -> tuple[list[float], Counter[str]]:
    """Seconds of each caption that came, and how often each status did."""
    times: list[float] = []
    statuses: Counter[str] = Counter()
    end = perf_counter() + seconds

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as session:
            while perf_counter() < end:
                begun = perf_counter()
                try:
                    answer = await session.post("/v1/caption", content=photo, headers=PNG)
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                    continue
                statuses[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    times.append(perf_counter() - begun)
                elif answer.status_code == 429:
                    await asyncio.sleep(float(answer.headers["retry-after"]))

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, statuses


def killed(server: subprocess.Popen[bytes], url: str, memory: Path, model: str | None) -> dict[str, Any]:
    """Remember until the server is killed: what the file holds then."""

    async def remember() -> int:
        said = 0

        async def client() -> None:
            nonlocal said
            async with httpx.AsyncClient(base_url=url, timeout=60) as session:
                for number in itertools.count():
                    try:
                        answer = await session.post("/v1/remember", json={"text": f"thing {number}"})
                    except httpx.HTTPError:
                        return
                    said += answer.status_code == 200

        writing = [asyncio.create_task(client()) for _ in range(8)]
        await asyncio.sleep(2)
        server.kill()
        await asyncio.gather(*writing)
        return said

    said = asyncio.run(remember())
    with load(model).memory(memory) as session:
        about = session.stats()
        return {
            "remembered until then": said,
            "episodes in the file": about["episodes"],
            "damaged": about["damaged"],
            "all that was answered is there": about["episodes"] >= min(said, about["slots"]),
        }


def resident(pid: int) -> int:
    """Bytes of RAM of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    run(main)
