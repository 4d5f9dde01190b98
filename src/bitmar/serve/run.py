"""From settings to a running server, and its end."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn

from bitmar.serve.app import create_app
from bitmar.serve.context import Context
from bitmar.serve.protocol import use_strict_protocol
from bitmar.serve.settings import Settings

_GRACE = 10  # seconds for requests that are being answered when the server is told to stop
_LATER = 2048  # connections that the system keeps waiting


def run(settings: Settings, host: str, port: int, started: Callable[[str, Context], None]) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP reloads the model. `started` is told the address.

    Raises BitMarError where model or memory cannot be opened, OSError where the address cannot be had.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    app = create_app(settings)
    context: Context = app.state.context
    with socket.create_server((host, port), family=_family(host, port), backlog=_LATER) as listening:
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE,
        )
        use_strict_protocol(config, settings.upload_seconds)
        server = uvicorn.Server(config)
        _handle_signals(server, context)
        shown = f"[{host}]" if ":" in host else host
        started(f"http://{shown}:{listening.getsockname()[1]}", context)
        server.run(sockets=[listening])


def _family(host: str, port: int) -> socket.AddressFamily:
    return socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]


def _handle_signals(server: uvicorn.Server, context: Context) -> None:
    """uvicorn stops at SIGINT and SIGTERM and then raises them again, for us to end by; but a server that was told to
    stop has done well."""

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), stop)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: context.home.ask_to_reload())
