"""The real `openai` client, as people's tools use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar import load

openai = pytest.importorskip("openai", reason="needs the openai package (bitmar[dev])")


@pytest.fixture
def client(serve: Callable[..., Any]) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{serve(api_key='secret').url}/v1", api_key="secret", max_retries=0) as made:
        yield made


def vision(url: str, text: str = "What is in this image?") -> list[Any]:
    return [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]},
    ]


def test_a_photo_is_described(client: Any, model: Path, png: Any, url_of: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=vision(url_of()), max_tokens=9)
    assert answer.choices[0].message.content == load(model, engine="numpy").caption(png(), max_tokens=9)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_conversation_goes_on_with_the_answer_as_it_came(client: Any, url_of: Any) -> None:
    turns = vision(url_of())
    turns.append(
        client.chat.completions.create(model="tiny", messages=turns, max_tokens=9).choices[0].message.model_dump()
    )
    assert turns[-1]["tool_calls"] is None  # among what the client adds
    turns.append({"role": "user", "content": "Is it a dog?"})
    empty: dict[str, Any] = {"logit_bias": {}, "tools": [], "seed": -1, "reasoning_effort": "low", "n": 1}
    assert client.chat.completions.create(model="tiny", messages=turns, **empty).choices[0].message.content
    tools = [{"type": "function", "function": {"name": "f"}}]
    with pytest.raises(openai.BadRequestError, match="tools: this model has no such thing"):
        client.chat.completions.create(model="tiny", messages=turns, tools=tools)


def test_it_streams(client: Any, url_of: Any) -> None:
    whole = client.chat.completions.create(model="bitmar", messages=vision(url_of()), max_tokens=9)
    with client.chat.completions.create(
        model="bitmar", messages=vision(url_of()), max_tokens=9, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert content.strip() == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


def test_the_stream_helper(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "the dog"}], "max_tokens": 20}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    with client.chat.completions.stream(**asked, stop=whole[9:12]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content == whole[: whole.index(whole[9:12])]


def test_models_and_embeddings(client: Any, model: Path) -> None:
    assert [card.id for card in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "bitmar"
    vectors = client.embeddings.create(model="tiny", input=["the dog", "a man"]).data  # in base64 on the wire
    np.testing.assert_allclose(vectors[1].embedding, load(model).embed("a man"), atol=1e-5)


def test_errors_are_the_clients_own(client: Any, serve: Any, url_of: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=vision(url_of()))
    with pytest.raises(openai.BadRequestError, match="base64") as caught:
        client.chat.completions.create(model="tiny", messages=vision("data:image/png;base64,%%"))
    assert caught.value.code == "invalid_image_url" and caught.value.request_id
    wrong = openai.OpenAI(base_url=str(client.base_url), api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="Authorization"):
        wrong.models.list()
