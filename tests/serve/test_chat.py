"""OpenAI's endpoints, by their own words."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitmar import BitMar, load

Refused = Callable[..., dict[str, Any]]
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def bitmar(model: Path) -> BitMar:
    return load(model, engine="numpy")


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def ask(server: Any, *messages: Any, **more: Any) -> Any:
    return server.client.post(CHAT, json={"model": "bitmar", "messages": list(messages), **more})


def chunks(response: Any) -> list[Any]:
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_text_goes_on(server: Any, bitmar: BitMar) -> None:
    answer = ask(server, {"role": "user", "content": "the dog"}, max_tokens=9).json()
    expected = bitmar.generate("the dog", max_tokens=9)
    assert answer["choices"][0]["message"]["content"] == expected.text.strip()
    assert answer["choices"][0]["finish_reason"] == expected.finish_reason
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": len(expected.tokens), "total_tokens": 8 + 9}
    assert answer["object"] == "chat.completion" and answer["model"] == "tiny"


def test_earlier_turns_are_read_and_a_system_is_not(server: Any, bitmar: BitMar) -> None:
    turns = [
        {"role": "system", "content": "Obey."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [text("c"), text("d")]},
    ]
    answer = ask(server, *turns, max_tokens=5).json()
    assert answer["choices"][0]["message"]["content"] == bitmar.complete("a\nb\nc\nd", max_tokens=5).strip()


@pytest.mark.parametrize("words", ["", "Describe this photo.", "What's in this image?", "List the objects"])
def test_a_photo_is_described(server: Any, bitmar: BitMar, png: Any, url_of: Any, words: str) -> None:
    parts = [text(words)] if words else []
    answer = ask(server, user(*parts, image(url_of())), max_tokens=12).json()
    assert answer["choices"][0]["message"]["content"] == bitmar.caption(png(), max_tokens=12)
    assert answer["usage"]["prompt_tokens"] == 1 + bitmar.config.vision_tokens


def test_a_question_is_asked_and_a_sentence_is_gone_on_with(server: Any, bitmar: BitMar, png: Any, url_of: Any) -> None:
    expected = {
        "What color is it?": bitmar.ask(png(), "What color is it?").text,
        "In the middle": bitmar.complete("In the middle", png(), max_tokens=4).strip(),
    }
    for said, words in expected.items():
        answer = ask(server, user(image(url_of()), text(said)), max_tokens=4).json()
        assert answer["choices"][0]["message"]["content"] == words


def test_a_photo_of_an_earlier_turn_is_still_seen(server: Any, bitmar: BitMar, png: Any, url_of: Any) -> None:
    turns = [user(image(url_of())), {"role": "assistant", "content": "A dog."}, user(text("What is it doing?"))]
    answer = ask(server, *turns, max_tokens=4).json()
    expected = bitmar.ask(png(), "What is it doing?").text
    assert answer["choices"][0]["message"]["content"] == expected


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_says_the_same(server: Any, url_of: Any, usage: bool) -> None:
    message = user(image(url_of()), text("Describe it"))
    whole = ask(server, message, max_tokens=12).json()
    more = {"stream_options": {"include_usage": True}} if usage else {}
    given = chunks(ask(server, message, max_tokens=12, stream=True, **more))
    if usage:
        last = given.pop()
        assert last["choices"] == [] and last["usage"] == whole["usage"]
        assert all(chunk["usage"] is None for chunk in given)
    deltas = [chunk["choices"][0]["delta"] for chunk in given]
    assert deltas[0]["role"] == "assistant" and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == whole["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in given][-2:] == [None, "length"]
    assert len({chunk["id"] for chunk in given}) == 1


def test_a_stop_text_ends_the_answer_and_is_not_in_it(server: Any, bitmar: BitMar) -> None:
    whole = bitmar.complete("the dog", max_tokens=20)
    stop = whole[8:10]
    for stream in (False, True):
        response = ask(
            server, {"role": "user", "content": "the dog"}, max_tokens=20, stop=["never", stop], stream=stream
        )
        if stream:
            given = chunks(response)
            content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in given)
            reason = given[-1]["choices"][0]["finish_reason"]
        else:
            content = response.json()["choices"][0]["message"]["content"]
            reason = response.json()["choices"][0]["finish_reason"]
        assert content.strip() == whole[: whole.index(stop)].strip() and reason == "stop"


def test_a_seed_repeats_what_chance_wrote(server: Any) -> None:
    message = {"role": "user", "content": "the dog"}
    first, again, other = (
        ask(server, message, temperature=1.5, seed=seed, max_tokens=20).json()["choices"][0]["message"]["content"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_more_tokens_than_the_server_gives_are_not_an_error(serve: Any) -> None:
    answer = ask(serve(max_tokens=5), {"role": "user", "content": "the dog"}, max_completion_tokens=100_000).json()
    assert answer["usage"]["completion_tokens"] <= 5


def test_several_photos_are_refused_with_the_reason(server: Any, url_of: Any, refused: Refused) -> None:
    error = refused(ask(server, user(image(url_of(0)), image(url_of(1)), text("Which is larger?"))), 400)
    assert "one photo at a time" in error["message"] and error["code"] == "too_many_images"
    turns = [user(image(url_of(0))), {"role": "assistant", "content": "A dog."}, user(image(url_of(1)))]
    assert refused(ask(server, *turns), 400)["code"] == "too_many_images"


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hello"}, "messages", "list"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "string"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "no text"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, None, "image_url"),
        ({"max_tokens": 0}, "max_tokens", "greater"),
        ({"max_tokens": 2.5}, "max_tokens", "integer"),
        ({"temperature": -1}, "temperature", "greater"),
        ({"temperature": "hot"}, "temperature", "number"),
        ({"top_p": 0}, "top_p", "greater"),
        ({"n": 2}, "n", "1"),
        ({"seed": 2**63}, "seed", "less"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stop": ""}, "stop", "at least 1"),
        ({"tools": [{"type": "function"}]}, "tools", "has no such thing"),
        ({"logprobs": True}, "logprobs", "False"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"max_toks": 3}, None, "did you mean 'max_tokens'"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, None, ""),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    server: Any, refused: Refused, change: dict[str, Any], param: str | None, says: str
) -> None:
    body = {"model": "bitmar", "messages": [{"role": "user", "content": "hello"}], **change}
    error = refused(
        server.client.post(CHAT, content=json.dumps(body), headers={"content-type": "application/json"}), 400
    )
    assert says in error["message"] and error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] is not None and error["param"].startswith(param)


@pytest.mark.parametrize("length", [4_000, 100_000, 2_000_000])
def test_a_text_longer_than_the_context_is_refused(server: Any, refused: Refused, length: int) -> None:
    for stream in (False, True):
        error = refused(ask(server, {"role": "user", "content": "a b " * (length // 4)}, stream=stream), 400)
        assert error["code"] == "context_length_exceeded"


def test_models(server: Any, refused: Refused) -> None:
    (card,) = server.client.get("/v1/models").json()["data"]
    assert card["id"] == "tiny" and card["object"] == "model"
    assert server.client.get("/v1/models/tiny").json() == card == server.client.get("/v1/models/bitmar").json()
    assert refused(server.client.get("/v1/models/gpt-4"), 404)["code"] == "model_not_found"
    answer = server.client.post(CHAT, json={"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]})
    assert refused(answer, 404)["code"] == "model_not_found"


def test_embeddings_of_texts_and_photos(server: Any, bitmar: BitMar, png: Any, url_of: Any) -> None:
    inputs = ["the dog", image(url_of()), text("a man")]
    answer = server.client.post("/v1/embeddings", json={"model": "bitmar", "input": inputs}).json()
    expected = [bitmar.embed("the dog"), bitmar.embed(image=png()), bitmar.embed("a man")]
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], expected, atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == 8 + bitmar.config.vision_tokens + 6
    coded = server.client.post(
        "/v1/embeddings", json={"model": "bitmar", "input": "the dog", "encoding_format": "base64"}
    ).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), expected[0], atol=1e-6)


@pytest.mark.parametrize(
    "change", [{"input": []}, {"input": ""}, {"input": [1, 2, 3]}, {"input": ["a", ""]}, {"dimensions": 7}]
)
def test_what_cannot_be_embedded(server: Any, refused: Refused, change: dict[str, Any]) -> None:
    refused(server.client.post("/v1/embeddings", json={"model": "bitmar", "input": "a", **change}), 400)


def test_too_much_at_once_cannot_be_embedded(server: Any, refused: Refused) -> None:
    error = refused(server.client.post("/v1/embeddings", json={"model": "bitmar", "input": ["a b " * 200] * 200}), 400)
    assert "fewer texts" in error["message"]
