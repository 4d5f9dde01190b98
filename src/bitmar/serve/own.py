"""BitMar's own endpoints: captions, questions, and what the device remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Path
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from bitmar.core.errors import MemoryFileError
from bitmar.generation import Generation
from bitmar.runtime.ask import Answer
from bitmar.runtime.options import searches
from bitmar.serve.context import Context, error_answers, event_stream, get_context, sse, with_first
from bitmar.serve.errors import ApiError, of_validation
from bitmar.serve.pictures import photo_of
from bitmar.serve.pool import Done
from bitmar.serve.schemas import (
    AskAnswer,
    AskRequest,
    Body,
    Caption,
    CaptionRequest,
    EpisodeOut,
    Forgotten,
    MemoryAnswer,
    RecallAnswer,
    RecalledOut,
    RecallRequest,
    RememberRequest,
    SlotsAnswer,
    SlotsRequest,
)
from bitmar.serve.writing import Task, Written, check_length, write
from bitmar.session.layout import Episode
from bitmar.session.session import Recalled, Session

router = APIRouter(tags=["BitMar"])
Here = Annotated[Context, Depends(get_context)]
B = TypeVar("B", bound=Body)

_PHOTO = ("image/", "application/octet-stream")
_ERRORS = error_answers(400, 401, 408, 409, 413, 415, 421, 429, 500, 503)


def body_of(kind: type[B]) -> Callable[[Request], Awaitable[tuple[B, bytes | None]]]:
    """The request and its photo: as JSON, or the photo's file as the body and all else in the query."""

    async def read(request: Request) -> tuple[B, bytes | None]:
        content_type, data = request.headers.get("content-type", ""), await request.body()
        try:
            if content_type.startswith(_PHOTO):
                body = kind.model_validate({**request.query_params, "image": "(the body)"}, strict=False)
                return body, data
            if not content_type.startswith("application/json"):
                raise ApiError(
                    415,
                    "send JSON, as Content-Type: application/json, or a photo's file, as Content-Type: image/jpeg",
                    code="unsupported_media_type",
                )
            if request.query_params:
                raise ApiError(400, "beside JSON nothing stands in the query: all fields go into the body")
            body = kind.model_validate_json(data)
        except ValidationError as error:
            raise of_validation(error.errors()) from None
        url = getattr(body, "image", None)
        return body, None if url is None else await photo_of(url, get_context(request).settings)

    return read


def photo_route(kind: type[Body], summary: str) -> dict[str, Any]:
    """For OpenAPI: what `body_of` reads."""
    schema = kind.model_json_schema()
    query = [
        {"name": name, "in": "query", "required": False, "schema": about, "description": "Beside a photo as the body."}
        for name, about in schema["properties"].items()
        if name != "image"
    ]
    content = {"application/json": {"schema": schema}, "image/*": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "summary": summary,
        "openapi_extra": {"requestBody": {"required": True, "content": content}, "parameters": query},
    }


@router.post(
    "/v1/caption",
    response_model=Caption,
    responses={
        200: {
            "content": {"text/event-stream": {}},
            "description": "With `stream`: events.",
        },
        **_ERRORS,
    },
    **photo_route(CaptionRequest, "A sentence about a photo"),
)
async def caption(
    asked: Annotated[tuple[CaptionRequest, bytes], Depends(body_of(CaptionRequest))], here: Here
) -> Response | Caption:
    """The one of several captions that the photo bears out, or by beam search.

    A photo that is surely remembered is called what it was called.
    """
    body, photo = asked
    if body.stream and searches(body.beams):
        raise ApiError(400, "beam search knows its text only at the end: stream with beams=1", param="beams")
    served = here.home.now
    options = {**body.chosen(), "max_tokens": body.max_tokens, "beams": body.beams}
    task = Task("", photo, options=options, memory=body.memory)
    if not body.stream:
        written = await here.pool.finish(lambda: write(here.home, served, task))
        return Caption.model_validate(_caption(written, served.id, here))
    items = await with_first(here.pool.stream(lambda: write(here.home, served, task)))

    async def events() -> AsyncIterator[bytes]:
        async for item in items:
            if isinstance(item, Done):
                yield sse(_caption(item.value, served.id, here), "done")
            else:
                yield sse({"text": item}, "piece")

    return event_stream(events())


def _caption(written: Written, model: str, here: Context) -> dict[str, Any]:
    here.usage(written)
    made = written.made
    assert isinstance(made, Generation)  # a caption has no stop texts
    return {
        "caption": written.text,
        "finish_reason": written.finish_reason,
        "confidence": made.confidence,
        "general": made.general,
        "recited": made.recited,
        "recalled": None if made.recalled is None else _recalled(made.recalled).model_dump(),
        "model": model,
        "milliseconds": 1e3 * written.seconds,
    }


@router.post("/v1/ask", responses=_ERRORS, **photo_route(AskRequest, "A question about a photo"))
async def ask(asked: Annotated[tuple[AskRequest, bytes], Depends(body_of(AskRequest))], here: Here) -> AskAnswer:
    """Yes or no, how many, what color, what it is, what is done: a word or a few, or "I cannot tell"."""
    body, photo = asked
    served = here.home.now
    written = await here.pool.finish(lambda: write(here.home, served, Task(body.question, photo, asks=True)))
    here.usage(written)
    made = written.made
    assert isinstance(made, Answer)
    return AskAnswer(answer=made.text, confidence=made.confidence, gain=made.gain, guess=made.guess, model=served.id)


@router.post(
    "/v1/remember",
    responses={**_ERRORS, **error_answers(507)},
    **photo_route(RememberRequest, "Remember a photo, a text, or both"),
)
async def remember(
    asked: Annotated[tuple[RememberRequest, bytes | None], Depends(body_of(RememberRequest))], here: Here
) -> EpisodeOut:
    """At once, without training; with `--memory` it is on the disk when this answers."""
    body, photo = asked
    served = here.home.now

    def work() -> Episode:
        check_length(served, body.text)
        with here.home.memory(served, write=True) as session:
            return session.remember(body.text, photo)

    return _episode(await here.pool.run(work))


@router.post("/v1/recall", responses=_ERRORS, **photo_route(RecallRequest, "What a photo or a text calls up"))
async def recall(
    asked: Annotated[tuple[RecallRequest, bytes | None], Depends(body_of(RecallRequest))], here: Here
) -> RecallAnswer:
    """The episodes nearest to a photo, among those with one, or to a text, among those with one."""
    body, photo = asked
    served = here.home.now

    def work() -> list[Recalled]:
        check_length(served, body.text or "")
        with here.home.memory(served) as session:
            return session.recall(image=photo, text=body.text, k=body.k)

    return RecallAnswer(recalled=[_recalled(one) for one in await here.pool.run(work)])


@router.get("/v1/memory", responses=error_answers(400, 401, 421, 429, 500, 503))
async def memory(here: Here) -> MemoryAnswer:
    """All that is remembered, the latest first."""

    def work(session: Session) -> MemoryAnswer:
        about, episodes = session.stats(), session.inspect()
        name = None if session.path is None else session.path.name
        return MemoryAnswer(
            slots=about["slots"], bytes=about["bytes"], file=name, episodes=[_episode(one) for one in episodes]
        )

    return await here.pool.run(lambda: _with_memory(here, work))


@router.delete("/v1/memory/{slot}", responses=error_answers(400, 401, 404, 409, 421, 429, 500, 503, 507))
async def forget(slot: Annotated[int, Path(ge=0, lt=2**32)], here: Here) -> Forgotten:
    """Empty a slot and wipe its bytes."""

    def work(session: Session) -> None:
        def check() -> None:
            if all(episode.slot != slot for episode in session.inspect()):
                raise ApiError(404, f"slot {slot} holds nothing", code="slot_empty", param="slot")

        check()
        try:
            session.forget(slot)
        except MemoryFileError:
            check()  # another request may have been faster
            raise

    await here.pool.run(lambda: _with_memory(here, work, write=True))
    return Forgotten(forgotten=slot)


@router.post("/v1/slots", responses=_ERRORS, **photo_route(SlotsRequest, "Which slots of the memory are read"))
async def slots(
    asked: Annotated[tuple[SlotsRequest, bytes | None], Depends(body_of(SlotsRequest))], here: Here
) -> SlotsAnswer:
    """How much the model reads each slot after this text about this photo (w of the paper's equation 2)."""
    body, photo = asked
    served = here.home.now

    def work(session: Session) -> SlotsAnswer:
        check_length(served, body.text)
        weights = served.model.read_weights(body.text, photo, memory=session)
        held = [{"slot": episode.slot, "text": episode.text} for episode in session.inspect()]
        return SlotsAnswer.model_validate({"weights": np.round(weights, 6).tolist(), "held": held})

    return await here.pool.run(lambda: _with_memory(here, work))


T = TypeVar("T")


def _with_memory(here: Context, work: Callable[[Session], T], *, write: bool = False) -> T:
    with here.home.memory(here.home.now, write=write) as session:
        return work(session)


def _episode(episode: Episode) -> EpisodeOut:
    lost = None if episode.lost is None else episode.lost[0]
    return EpisodeOut.model_validate({**asdict(episode), "lost": lost})


def _recalled(found: Recalled) -> RecalledOut:
    return RecalledOut(
        episode=_episode(found.episode), score=found.score, margin=found.margin, confidence=found.confidence
    )
