"""Sinks of events: the terminal, a file of JSON lines, a web address. (`mqtt` has the broker.)"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from bitmar.core.errors import ConfigError, OutputError
from bitmar.core.fetch import is_address
from bitmar.watch.event import CaptionEvent, Event
from bitmar.watch.source import masked

Say = Callable[[str], None]

WAITING = 100  # events that a sink keeps while it cannot pass them on
TRIES = (0.0, 1.0, 4.0, 15.0)  # seconds before each attempt to reach a web address
SECONDS = 10.0  # for its answer
GRACE = 5.0  # seconds at the end for what is still waiting


class Sink(Protocol):
    """lost: how many events did not arrive. A sink that fails says so, counts, and goes on."""

    lost: int

    def send(self, event: Event) -> None:
        """Pass an event on, soon; never waits for the network."""
        ...

    def close(self) -> None:
        """Pass on what is waiting, for a few seconds at most."""
        ...


class Lines:
    """A line for people each, to `out` what was seen and to `say` the rest."""

    def __init__(self, out: Say, say: Say) -> None:
        self.lost, self._out, self._say = 0, out, say

    def send(self, event: Event) -> None:
        """See `Sink`."""
        (self._out if isinstance(event, CaptionEvent) else self._say)(event.line())

    def close(self) -> None:
        """See `Sink`."""


class JsonLines:
    """A line of JSON each, at the end of a file, or `-` for standard output. Raises OutputError, ConfigError."""

    def __init__(self, path: Path, say: Say) -> None:
        self.lost, self._path, self._say = 0, path, say
        self._file: IO[bytes] = sys.stdout.buffer if str(path) == "-" else _at_the_end(path)

    def send(self, event: Event) -> None:
        """See `Sink`."""
        try:
            self._file.write(_line(event) + b"\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk may have room again
            self.lost += 1
            self._say(f"{self._path}: an event is lost: {error.strerror or error}")

    def close(self) -> None:
        """See `Sink`."""
        if self._file is not sys.stdout.buffer:
            self._file.close()


def _at_the_end(path: Path) -> IO[bytes]:
    """Unbuffered, on a new line; of a file that holds something else nothing is touched."""
    try:
        file = path.open("a+b", buffering=0)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(0)
            if file.read(1) != b"{":
                file.close()
                raise ConfigError(f"{path} is there and holds no JSON lines: name another file for --json")
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a line that a kill has cut off
                file.write(b"\n")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return file


class Webhook:
    """A POST of JSON each, by a thread of its own; tried again where the other side may recover. Raises ConfigError."""

    def __init__(self, url: str, say: Say) -> None:
        if not is_address(url) or not urlsplit(url).hostname:
            raise ConfigError(f"--webhook is an http(s) address, not {masked(url)!r:.80}")
        self.lost, self._url, self._say = 0, url, say
        self._name = f"webhook {urlsplit(url).hostname}"  # its path is often a secret
        self._waiting: queue.Queue[bytes | None] = queue.Queue(WAITING)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """See `Sink`."""
        try:
            self._waiting.put_nowait(_line(event))
        except queue.Full:
            self._lose(f"{WAITING} are waiting already")

    def close(self) -> None:
        """See `Sink`."""
        until = time.monotonic() + GRACE
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=GRACE)
        self._thread.join(max(until - time.monotonic(), 0.1))
        if left := self._waiting.qsize():
            self.lost += left
            self._say(f"{self._name}: {left} events were not delivered")

    def _work(self) -> None:
        while (body := self._waiting.get()) is not None:
            cause = ""
            for wait in TRIES:
                if wait and self._ended.wait(wait):
                    break
                again, cause = self._post(body)
                if not again:
                    break
            if cause:
                self._lose(cause)

    def _post(self, body: bytes) -> tuple[bool, str]:
        """Whether to try again, and why it failed; "" if it did not."""
        headers = {"Content-Type": "application/json", "User-Agent": "bitmar"}
        try:
            request = urllib.request.Request(self._url, body, headers)
            with _OPENER.open(request, timeout=SECONDS):
                return False, ""
        except urllib.error.HTTPError as error:
            error.close()
            return error.code >= 500 or error.code in (408, 429), f"it answers {error.code} {error.reason}"
        except urllib.error.URLError as error:
            return True, str(getattr(error.reason, "strerror", None) or error.reason)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return True, str(error) or type(error).__name__

    def _lose(self, cause: str) -> None:
        self.lost += 1
        self._say(f"{self._name}: an event is lost: {cause}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would arrive without its body."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


def _line(event: Event) -> bytes:
    return json.dumps(event.document(), ensure_ascii=False).encode("utf-8", "replace")
