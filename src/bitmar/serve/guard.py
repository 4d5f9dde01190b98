"""The checks before every request: host, key, size, time; and its line in the log."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterator
from urllib.parse import quote

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitmar.serve.errors import ApiError, busy
from bitmar.serve.metrics import Metrics
from bitmar.serve.pool import Pool
from bitmar.serve.settings import Settings

log = logging.getLogger("bitmar.serve")

_ID = re.compile(r"[\w.-]{1,64}")
_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
_PROTECTED = ("/v1", "/metrics")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """The outermost layer. A body is read here, whole and within its limits, so nothing further in meets a slow one."""

    def __init__(self, app: ASGIApp, settings: Settings, pool: Pool, metrics: Metrics) -> None:
        self.app, self.settings, self.pool, self.metrics = app, settings, pool, metrics
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, start = Headers(scope=scope), time.perf_counter()
        asked = headers.get("x-request-id", "")
        name = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = MutableHeaders(scope=message)
                given["X-Request-ID"] = name
                for key, value in _HEADERS.items():
                    given[key] = value
                given.setdefault("Cache-Control", "no-store")
            await send(message)

        self.inside += 1
        try:
            with anyio.fail_after(self.settings.request_seconds):
                await self._admit(scope, headers, receive, named)
        except ApiError as error:
            await error.response(scope, receive, named)
        except TimeoutError:
            if not status:
                late = f"not done within {self.settings.request_seconds:g} seconds: ask for fewer tokens"
                await ApiError(503, late, code="timeout", headers={"Retry-After": "1"}).response(scope, receive, named)
        except Exception:
            log.exception("a fault of the server in request %s", name)
            if not status:
                fault = ApiError(500, f"a fault of the server: its log tells of request {name}", code="internal_error")
                await fault.response(scope, receive, named)
        finally:
            self.inside -= 1
            self._note(scope, status or 499, time.perf_counter() - start, name)

    async def _admit(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        self._check_host(headers)
        if scope["path"].startswith(_PROTECTED) and scope["method"] != "OPTIONS":
            self._check_key(headers)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        if self.inside > self.settings.requests:
            raise busy(f"{self.settings.requests} requests are being answered")
        if scope["path"].startswith("/v1/"):
            self.pool.check()  # before a photo is taken in that nobody will look at
        await self.app(scope, replayed(await self._body(headers, receive), receive), send)

    def _check_host(self, headers: Headers) -> None:
        allowed = self.settings.hosts
        host = re.sub(r":\d+$", "", headers.get("host", "")).lower()
        if allowed and host not in allowed:
            raise ApiError(
                421,
                f"this server is not {host!r:.80} but {allowed[0]}; `--allow-host` names further ones",
                code="unknown_host",
            )

    def _check_key(self, headers: Headers) -> None:
        if self.settings.api_key is None:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(key.strip().encode("latin-1"), self.settings.api_key.encode())
        if scheme.lower() != "bearer" or not same:
            raise ApiError(
                401,
                "send the server's key as `Authorization: Bearer KEY`",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        most = self.settings.max_body
        if (length := headers.get("content-length", "")).isdigit() and int(length) > most:
            raise _too_large(most)
        parts, size = list[bytes](), 0
        try:
            with anyio.fail_after(self.settings.upload_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(400, "the client has gone", code="disconnected")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408,
                f"the request did not arrive within {self.settings.upload_seconds:g} seconds",
                code="upload_timeout",
                headers={"Connection": "close"},
            ) from None

    def _note(self, scope: Scope, status: int, seconds: float, name: str) -> None:
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"  # a template: what clients make up is no label
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(method, path, status).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        log.info("%s %s %d %.1f ms %s", method, quote(scope["path"]), status, 1e3 * seconds, name)


def replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, then what follows it."""
    left: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        for message in left:
            return message
        return await receive()

    return again


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most:,} bytes: send a smaller photo", code="request_too_large")
