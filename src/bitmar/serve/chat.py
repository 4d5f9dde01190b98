"""OpenAI's endpoints: chat completions, embeddings, models."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends
from starlette.responses import Response

from bitmar.serve.context import Context, error_answers, event_stream, get_context, sse, with_first
from bitmar.serve.errors import ApiError
from bitmar.serve.home import Served
from bitmar.serve.pictures import photo_of
from bitmar.serve.pool import Done
from bitmar.serve.schemas import (
    ChatCompletion,
    ChatRequest,
    EmbeddingList,
    EmbeddingRequest,
    ImagePart,
    Message,
    ModelCard,
    ModelList,
    TextPart,
)
from bitmar.serve.wanted import is_order, question_in
from bitmar.serve.writing import Task, Written, check_length, embed, write

router = APIRouter(tags=["OpenAI"])
Here = Annotated[Context, Depends(get_context)]

_ALIAS = "bitmar"
_TOKENS = 128  # of an answer for which no limit was asked
_TOTAL = 64  # contexts: what one request may have embedded


@router.get("/v1/models", responses=error_answers(401))
async def list_models(here: Here) -> ModelList:
    """The model that is served."""
    return ModelList(data=[_card(here.home.now)])


@router.get("/v1/models/{model:path}", responses=error_answers(401, 404))
async def retrieve_model(model: str, here: Here) -> ModelCard:
    """The same by its name."""
    return _card(here.served(model))


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {
            "content": {"text/event-stream": {}},
            "description": "With `stream`: chunks.",
        },
        **error_answers(400, 401, 404, 408, 409, 413, 415, 421, 429, 503),
    },
)
async def chat_completions(body: ChatRequest, here: Here) -> Response | ChatCompletion:
    """Go on with a text, caption a photo, or answer a question about it.

    Without a photo the model goes on with what was said so far. With one: no text, or one that asks for something,
    gives the caption; a question its answer; any other text is gone on with. One photo may stand in a conversation; the
    last user's message is what counts beside it.
    """
    served = here.served(body.model)
    task = await _task(body, here)
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": served.id,
        "system_fingerprint": served.fingerprint,
    }
    if not body.stream:
        if body.stream_options is not None:
            raise ApiError(400, "stream_options go with stream=true", code="invalid_value", param="stream_options")
        written = await here.pool.finish(lambda: write(here.home, served, task))
        choice = {"message": {"content": written.text}, "finish_reason": written.finish_reason}
        return ChatCompletion.model_validate({**head, "choices": [choice], "usage": here.usage(written)})
    items = await with_first(here.pool.stream(lambda: write(here.home, served, task)))
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return event_stream(_chunks(items, head, usage, here))


async def _chunks(items: AsyncIterator[Any], head: dict[str, Any], usage: bool, here: Context) -> AsyncIterator[bytes]:
    about = {**head, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return sse({**about, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    yield chunk({"role": "assistant", "content": "", "refusal": None})
    async for item in items:
        if not isinstance(item, Done):
            yield chunk({"content": item})
            continue
        written: Written = item.value
        counted = here.usage(written)
        yield chunk({}, written.finish_reason)
        if usage:
            yield sse({**about, "choices": [], "usage": counted})
    yield b"data: [DONE]\n\n"


async def _task(body: ChatRequest, here: Context) -> Task:
    """The text to write."""
    limit = body.max_completion_tokens or body.max_tokens or _TOKENS
    options = {**body.chosen(), "max_tokens": min(limit, here.settings.max_tokens)}
    photos = [part.image_url.url for part in _parts(body.messages) if isinstance(part, ImagePart)]
    if len(photos) > 1:
        raise ApiError(
            400,
            f"this model looks at one photo at a time, and {len(photos)} were sent: ask about each in its own request",
            code="too_many_images",
            param="messages",
        )
    said = [text for message in body.messages if message.role in ("user", "assistant") and (text := _text(message))]
    if not photos:
        if not said:
            raise ApiError(400, "there is no text to go on with and no photo", code="invalid_value", param="messages")
        return Task("\n".join(said), options=options, stops=body.stops, memory=body.memory)
    photo = await photo_of(photos[0], here.settings)
    text = _text(next(message for message in reversed(body.messages) if message.role == "user")).strip()
    question = question_in(text)
    if question is None and is_order(text):
        text = ""
    return Task(question or text, photo, question is not None, options, body.stops, body.memory)


def _parts(messages: list[Message]) -> list[Any]:
    """All parts of all messages. Raises ApiError for a photo that no user sent."""
    found = []
    for message in messages:
        for part in message.content if isinstance(message.content, list) else []:
            if isinstance(part, ImagePart) and message.role != "user":
                raise ApiError(
                    400, f"a photo stands in a user's message, not in the {message.role}'s", param="messages"
                )
            found.append(part)
    return found


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


@router.post("/v1/embeddings", responses=error_answers(400, 401, 404, 408, 413, 415, 421, 429, 503))
async def embeddings(body: EmbeddingRequest, here: Here) -> EmbeddingList:
    """Where texts and photos lie in the space that captions and photos share."""
    served = here.served(body.model)
    width = served.model.config.hidden_size
    if body.dimensions not in (None, width):
        raise ApiError(400, f"this model's vectors have {width} dimensions", code="invalid_value", param="dimensions")
    inputs = [body.input] if isinstance(body.input, str) else body.input
    plain = [item if isinstance(item, (str, bytes)) else await _embeddable(item, here) for item in inputs]
    if any(isinstance(item, str) and not item for item in plain):
        raise ApiError(400, "an empty text has no place in the space", code="invalid_value", param="input")

    def work() -> tuple[list[Any], int]:
        tokens = 0
        for item in plain:
            tokens += check_length(served, item) if isinstance(item, str) else served.model.config.vision_tokens
            if tokens > _TOTAL * served.context:
                most = f"{_TOTAL * served.context:,}"
                raise ApiError(400, f"one request may embed {most} tokens: send fewer texts", param="input")
        return embed(served.model, plain), tokens

    vectors, tokens = await here.pool.run(work)
    here.metrics.tokens.labels("prompt").inc(tokens)
    coded = body.encoding_format == "base64"
    data = [
        {"index": i, "embedding": _base64(vector) if coded else vector.tolist()} for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return EmbeddingList.model_validate({"data": data, "model": served.id, "usage": usage})


async def _embeddable(part: TextPart | ImagePart, here: Context) -> str | bytes:
    return part.text if isinstance(part, TextPart) else await photo_of(part.image_url.url, here.settings)


def _base64(vector: Any) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def _card(served: Served) -> ModelCard:
    return ModelCard(id=served.id, created=served.created)
