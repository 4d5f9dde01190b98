"""Every fault as an answer in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import errno
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from bitmar.core.errors import BitMarError, ImageError, MemoryBusyError, MemoryFileError

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_NO_FIELDS = (
    "body",
    "query",
    "path",
    "str",
    "constrained-str",
)  # what pydantic and FastAPI put between the fields of a place
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ApiError(Exception):
    """An error of a request. code: for programs; param: the part of the request that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def busy(what: str) -> ApiError:
    """429: come again."""
    return ApiError(429, f"{what}: try again in a second", code="rate_limit_exceeded", headers={"Retry-After": "1"})


def as_api_error(error: BitMarError) -> ApiError:
    """The answer to an error of ours."""
    message = " ".join(str(error).split())
    if isinstance(error, ImageError):
        return ApiError(400, message, code="invalid_image")
    if isinstance(error, MemoryBusyError):
        return ApiError(409, message, code="memory_in_use", headers={"Retry-After": "1"})
    if not isinstance(error, MemoryFileError):
        return ApiError(400, message, code="invalid_value")
    cause = error.__cause__
    if isinstance(cause, OSError):
        full = cause.errno in _FULL
        return ApiError(507 if full else 503, message, code="memory_disk_full" if full else "memory_unavailable")
    return ApiError(500, message, code="memory_damaged")


def install(app: FastAPI) -> None:
    """Let the application answer every fault in this shape."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response

    async def model(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, BitMarError)
        return as_api_error(error).response

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return of_validation(error.errors(), request.headers.get("content-type", "")).response

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = {404: f"there is no {request.url.path}", 405: f"{request.url.path} takes no {request.method}"}
        text = message.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, text, headers=dict(error.headers or {})).response

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(BitMarError, model)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def of_validation(errors: Any, content_type: str = "application/json") -> ApiError:
    """What pydantic found wrong. Of several faults the one of the member of a union that fits best: not merely a wrong
    type, and deepest in the request."""
    if errors[0]["loc"][:1] == ("body",) and not content_type.startswith("application/json"):
        return ApiError(415, "send JSON, as Content-Type: application/json", code="unsupported_media_type")
    first = max(errors, key=lambda error: (not error["type"].endswith("_type"), len(error["loc"])))
    place = [str(part) for part in first["loc"] if part not in _NO_FIELDS and "[" not in str(part)]
    param = ".".join(place) or None
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is no JSON: {first['ctx']['error']}", code="invalid_json")
    return ApiError(400, f"{param}: {message}" if param else message, code="invalid_value", param=param)
