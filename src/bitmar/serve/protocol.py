"""Uvicorn's protocols, with a timeout for a request whose head never ends, and errors in our shape.

Without the first a client that sends a byte a minute keeps a connection for ever (the "slowloris" attack). The body has
its limit in `guard`, an idle connection in uvicorn.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import uvicorn

from bitmar.serve.errors import ApiError


class _Strict:
    """Before one of uvicorn's protocols in the order of inheritance."""

    seconds: float
    _timer: asyncio.TimerHandle | None = None

    if TYPE_CHECKING:
        cycle: Any  # the request that is being answered, of uvicorn
        transport: asyncio.Transport
        loop: asyncio.AbstractEventLoop

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._expect()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]
        if self.cycle is not None and not self.cycle.response_complete:
            self._arrived()
        elif self._timer is None:
            self._expect()

    def connection_lost(self, reason: Exception | None) -> None:
        self._arrived()
        super().connection_lost(reason)  # type: ignore[misc]

    def send_400_response(self, msg: str) -> None:
        error = ApiError(400, f"{msg.rstrip('.')}: it is no HTTP, or its head is too long", code="invalid_request")
        body = json.dumps(error.body).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _expect(self) -> None:
        self._timer = self.loop.call_later(self.seconds, self._give_up)

    def _arrived(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def use_strict_protocol(config: uvicorn.Config, seconds: float) -> None:
    """Let this server close a connection whose request's head does not arrive in time."""
    config.load()
    config.http_protocol_class = type("Strict", (_Strict, config.http_protocol_class), {"seconds": seconds})
