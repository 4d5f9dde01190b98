"""Servers that run in a thread of the tests, on a tiny model."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    import httpx

    from bitmar.serve.context import Context
    from bitmar.serve.settings import Settings


@dataclass(frozen=True)
class Running:
    """A server that answers at `url`; client: of httpx, at that address."""

    url: str
    client: httpx.Client
    context: Context

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    import httpx
    import uvicorn

    from bitmar.serve.app import create_app
    from bitmar.serve.protocol import use_strict_protocol

    app = create_app(settings)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=2
    )
    use_strict_protocol(config, settings.upload_seconds)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, timeout=30) as client:
        yield Running(url, client, app.state.context)
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def serve(model: Path) -> Iterator[Callable[..., Running]]:
    """serve(**settings) -> a server of the tiny model; one for each set of settings of a module."""
    for package in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
        pytest.importorskip(package, reason="the server needs bitmar[serve]")
    from bitmar.serve.settings import Settings

    made: dict[str, Running] = {}
    with ExitStack() as stack:

        def start(**settings: Any) -> Running:
            key = repr(sorted(settings.items()))
            if key not in made:
                chosen = Settings(**{"model": model, "threads": 1, "engine": "numpy", **settings})
                made[key] = stack.enter_context(running(chosen))
            return made[key]

        yield start


@pytest.fixture(scope="module")
def server(serve: Callable[..., Running]) -> Running:
    """With the usual settings."""
    return serve()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """png(seed=0, size=(40, 30)) -> the file of a photo of smooth colours."""

    def make(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
        small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        data = io.BytesIO()
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(data, "PNG")
        return data.getvalue()

    return make


@pytest.fixture(scope="session")
def url_of(png: Callable[..., bytes]) -> Callable[..., str]:
    """url_of(seed) -> the same as a data: URL."""
    return lambda seed=0: "data:image/png;base64," + base64.b64encode(png(seed)).decode()


@pytest.fixture
def refused() -> Callable[..., dict[str, Any]]:
    """refused(response, status) -> its error, which has OpenAI's shape."""

    def check(response: httpx.Response, status: int) -> dict[str, Any]:
        assert response.status_code == status, response.text
        assert response.headers["x-request-id"] and response.headers["content-type"] == "application/json"
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] and "Traceback" not in error["message"]
        return dict(error)

    return check
