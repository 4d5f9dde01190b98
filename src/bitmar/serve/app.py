"""The application: endpoints, guard, page, and the life of the model behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from bitmar import __version__
from bitmar.serve import chat, errors, own
from bitmar.serve.context import Context, error_answers
from bitmar.serve.guard import Guard
from bitmar.serve.home import Home
from bitmar.serve.metrics import Metrics
from bitmar.serve.pool import Pool
from bitmar.serve.schemas import Health
from bitmar.serve.settings import Settings

PAGE = Path(__file__).parent / "page"


def create_app(settings: Settings) -> FastAPI:
    """An ASGI application with its model loaded. Raises BitMarError where model or memory cannot be opened."""
    home, pool = Home(settings), Pool(settings.threads, settings.queue)
    context = Context(settings, home, pool, Metrics(home, pool))

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(home, settings.watch_seconds))
        yield
        watching.cancel()
        await asyncio.to_thread(pool.close)
        home.close()

    app = FastAPI(
        title="BitMar",
        version=__version__,
        summary="Captions, questions and a memory for photos, offline.",
        lifespan=life,
        docs_url=None,  # those pages load scripts of another site
        redoc_url=None,
    )
    app.state.context = context
    errors.install(app)
    app.include_router(chat.router)
    app.include_router(own.router)
    _add_own_pages(app, context)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Guard, settings=settings, pool=pool, metrics=context.metrics)
    _describe(app, settings)
    return app


def _add_own_pages(app: FastAPI, context: Context) -> None:
    @app.get("/health", tags=["Server"], responses=error_answers(421))
    async def health() -> Health:
        """Whether the server lives, and what it serves; asks for no key."""
        return Health.model_validate(context.home.about())

    @app.get(
        "/metrics",
        tags=["Server"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **error_answers(401, 421)},
    )
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(context.metrics.text(), media_type=context.metrics.content_type)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE))


async def _watch(home: Home, seconds: float) -> None:
    """Reload a model whose file has changed and then been still for so long."""
    while True:
        await asyncio.sleep(seconds)
        if await asyncio.to_thread(home.changed):
            await asyncio.to_thread(home.reload)


def _describe(app: FastAPI, settings: Settings) -> None:
    """OpenAPI as it is: invalid requests are 400 in our shape, not FastAPI's 422; a key where one is asked for."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = plain()
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if settings.api_key is not None and path != "/health":
                    operation["security"] = [{"key": []}]
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        if settings.api_key is not None:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
