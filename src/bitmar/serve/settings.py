"""A server's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Settings:
    """model, engine: as `bitmar.load` takes them. memory: a `.mem` file; None: what is remembered ends with the server.

    api_key: what a client must send as `Authorization: Bearer KEY`; None asks for nothing. allow_urls: fetch photos
    that a request names by http(s) address. origins: pages of other sites that may call (CORS). hosts: names by which
    the server may be addressed, () for any; the loopback names keep out a site that rebinds its own name to this
    machine.

    threads: requests in the engine at once. queue: that wait for it; a further one is told to come again (429).
    requests: that are read or answered at once. max_body: bytes of a request. upload_seconds: for its arrival.
    request_seconds: from its arrival to the last byte of the answer. max_tokens: the most that one answer may have.
    """

    model: str | Path | None = None
    memory: Path | None = None
    engine: str | None = None
    api_key: str | None = None
    allow_urls: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = LOOPBACK
    threads: int = min(os.cpu_count() or 1, 8)
    queue: int = 8
    requests: int = 128
    max_body: int = 16 << 20
    upload_seconds: float = 20.0
    request_seconds: float = 60.0
    max_tokens: int = 1024
    watch_seconds: float = 1.0
