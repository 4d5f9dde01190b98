"""Shared by every endpoint: the model, the pool, the metrics; and streamed answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse

from bitmar.core.errors import BitMarError
from bitmar.serve.errors import ApiError, as_api_error
from bitmar.serve.home import Home, Served
from bitmar.serve.metrics import Metrics
from bitmar.serve.pool import Pool
from bitmar.serve.schemas import ErrorAnswer
from bitmar.serve.settings import Settings
from bitmar.serve.writing import Written

T = TypeVar("T")

_SAYS = {
    400: "The request cannot be answered: `error` says why.",
    401: "The server's key is missing or wrong.",
    404: "There is no such thing.",
    408: "The request arrived too slowly.",
    409: "Another program is writing the memory.",
    413: "The request is too large.",
    415: "Another content type is needed.",
    421: "The server was addressed by a name that is not its own.",
    429: "Too many requests: come again after `Retry-After` seconds.",
    500: "A fault of the server, or a damaged memory.",
    503: "It took too long, or a disk is missing.",
    507: "The memory's disk is full.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """One server."""

    settings: Settings
    home: Home
    pool: Pool
    metrics: Metrics

    def served(self, name: str) -> Served:
        """The model of this name. Raises ApiError (404)."""
        now = self.home.now
        if name not in (now.id, "bitmar"):
            raise ApiError(
                404, f"there is no model {name!r:.80} here but {now.id!r}", code="model_not_found", param="model"
            )
        return now

    def usage(self, written: Written) -> dict[str, int]:
        """The usage of a text, counted in the metrics too."""
        self.metrics.tokens.labels("prompt").inc(written.prompt)
        self.metrics.tokens.labels("completion").inc(written.tokens)
        total = written.prompt + written.tokens
        return {"prompt_tokens": written.prompt, "completion_tokens": written.tokens, "total_tokens": total}


def get_context(request: Request) -> Context:
    """For `Depends`."""
    context: Context = request.app.state.context
    return context


def error_answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses for OpenAPI."""
    return {status: {"model": ErrorAnswer, "description": _SAYS[status]} for status in statuses}


def sse(document: Any, event: str | None = None) -> bytes:
    """One server-sent event: a JSON document is one line."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def event_stream(chunks: AsyncIterator[bytes]) -> StreamingResponse:
    """An answer piece by piece. A fault on the way is a last event: its status has been sent already."""

    async def all_of_them() -> AsyncIterator[bytes]:
        try:
            async for chunk in chunks:
                yield chunk
        except ApiError as error:
            yield sse(error.body)
        except BitMarError as error:
            yield sse(as_api_error(error).body)

    return StreamingResponse(all_of_them(), media_type="text/event-stream")


async def with_first(items: AsyncGenerator[T, None]) -> AsyncIterator[T]:
    """The same items once there is a first one, so that an error before it can still be an answer of its own."""
    first: Sequence[T] = [await anext(items)]

    async def rest() -> AsyncIterator[T]:
        try:
            yield first[0]
            async for item in items:
                yield item
        finally:
            await items.aclose()

    return rest()
