"""Captions, questions and the memory over HTTP."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitmar import load

Refused = Callable[..., dict[str, Any]]
PNG = {"content-type": "image/png"}


@pytest.fixture
def server(serve: Any, tmp_path: Path) -> Any:
    """One with an empty memory in a file."""
    return serve(memory=tmp_path / "home.mem")


def test_a_caption_of_a_file_and_of_json(server: Any, model: Path, png: Any, url_of: Any) -> None:
    expected = load(model, engine="numpy").caption(png(), max_tokens=9)
    sent = server.client.post("/v1/caption?max_tokens=9", content=png(), headers=PNG).json()
    assert sent["caption"] == expected and sent["recited"] == 0 and sent["recalled"] is None
    assert 0 < sent["milliseconds"] < 60_000 and sent["model"] == "tiny"
    assert server.client.post("/v1/caption", json={"image": url_of(), "max_tokens": 9}).json()["caption"] == expected
    beams = server.client.post("/v1/caption", json={"image": url_of(), "max_tokens": 9, "beams": 3}).json()["caption"]
    assert beams == load(model, engine="numpy").caption(png(), beams=3, max_tokens=9)


def test_a_caption_streams_in(server: Any, png: Any) -> None:
    whole = server.client.post("/v1/caption", content=png(), headers=PNG).json()
    answer = server.client.post("/v1/caption?stream=true", content=png(), headers=PNG)
    events = [event.split("\n") for event in answer.text.split("\n\n") if event]
    pieces = [json.loads(data.removeprefix("data: "))["text"] for name, data in events if name == "event: piece"]
    assert "".join(pieces).rstrip() == whole["caption"] and len(pieces) > 1
    name, data = events[-1]
    assert name == "event: done" and json.loads(data.removeprefix("data: "))["caption"] == whole["caption"]


def test_a_question(server: Any, model: Path, png: Any) -> None:
    answer = server.client.post("/v1/ask", params={"question": "What is it"}, content=png(), headers=PNG).json()
    expected = load(model, engine="numpy").ask(png(), "What is it")
    assert answer["answer"] == expected.text and answer["guess"] == expected.guess
    assert answer["confidence"] == pytest.approx(expected.confidence)


def test_a_name_is_remembered_recalled_recited_and_forgotten(server: Any, png: Any, refused: Refused) -> None:
    client = server.client
    made = client.post("/v1/remember?text=our+dog+Rex", content=png(1), headers=PNG).json()
    assert made["slot"] == 0 and made["text"] == "our dog Rex" and made["lost"] is None
    client.post("/v1/remember", json={"text": "The key lies under the mat."})
    (best,) = client.post("/v1/recall?k=5", content=png(1), headers=PNG).json()["recalled"]
    assert best["episode"]["text"] == "our dog Rex" and best["score"] > 0.99 and best["margin"] is None
    words = client.post("/v1/recall", json={"text": "where is the key", "k": 1}).json()["recalled"]
    assert words[0]["episode"]["slot"] == 1
    caption = client.post("/v1/caption", content=png(1), headers=PNG).json()
    assert caption["recalled"]["episode"]["slot"] == 0
    without = client.post("/v1/caption?memory=false", content=png(1), headers=PNG).json()
    assert without["recalled"] is None
    listed = client.get("/v1/memory").json()
    assert [episode["slot"] for episode in listed["episodes"]] == [1, 0] and listed["slots"] == 4
    assert listed["file"] == "home.mem"
    weights = client.post("/v1/slots?text=a", content=png(1), headers=PNG).json()
    assert len(weights["weights"]) == 4 and sum(weights["weights"]) == pytest.approx(1, abs=1e-4)
    assert {"slot": 0, "text": "our dog Rex"} in weights["held"]
    assert client.delete("/v1/memory/0").json() == {"forgotten": 0}
    assert refused(client.delete("/v1/memory/0"), 404)["code"] == "slot_empty"
    assert client.post("/v1/recall", content=png(1), headers=PNG).json()["recalled"] == []


def test_what_was_overwritten_is_named(server: Any, png: Any) -> None:
    made = [server.client.post("/v1/remember", json={"text": f"thing {i}"}).json() for i in range(5)]
    assert made[-1]["lost"] == "thing 0"


def test_without_a_file_it_remembers_as_long_as_it_runs(serve: Any, png: Any) -> None:
    client = serve(queue=15).client
    client.post("/v1/remember?text=Rex", content=png(), headers=PNG)
    assert client.get("/v1/memory").json()["file"] is None and len(client.get("/v1/memory").json()["episodes"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("caption", {}, "image"),
        ("caption", {"image": 3}, "string"),
        ("caption", {"image": "photo.jpg"}, "data: URL"),
        ("caption", {"image": "../../etc/passwd"}, "data: URL"),
        ("caption", {"image": "file:///etc/passwd"}, "data: URL"),
        ("caption", {"image": "data:,hello"}, "base64"),
        ("caption", {"image": "data:text/html;base64,aGk="}, "no photo"),
        ("caption", {"image": "data:image/png;base64,%%%"}, "base64"),
        ("caption", {"image": "data:image/png;base64,aGk"}, "base64"),
        ("caption", {"image": "data:image/png;base64,"}, "no bytes"),
        ("caption", {"image": "data:image/png;base64,aGVsbG8="}, "not a picture"),
        ("caption", {"image": "http://127.0.0.1/photo.jpg"}, "--allow-urls"),
        ("caption", {"image": "gopher://x"}, "data: URL"),
        ("caption", {"image": "IMAGE", "beams": 99}, "beams"),
        ("caption", {"image": "IMAGE", "beams": 2, "stream": True}, "beams=1"),
        ("caption", {"image": "IMAGE", "beams": 2, "temperature": 1}, "beam search"),
        ("caption", {"image": "IMAGE", "beam": 2}, "did you mean 'beams'"),
        ("ask", {"image": "IMAGE"}, "question"),
        ("ask", {"image": "IMAGE", "question": ""}, "question"),
        ("ask", {"image": "IMAGE", "question": " ? "}, "question"),
        ("ask", {"image": "IMAGE", "question": "q" * 100_000}, "question"),
        ("remember", {}, "nothing to remember"),
        ("remember", {"text": "   "}, "nothing to remember"),
        ("remember", {"text": "t" * 100_000}, "text"),
        ("recall", {}, "photo or a text"),
        ("recall", {"image": "IMAGE", "text": "both"}, "photo or a text"),
        ("recall", {"text": "x", "k": 0}, "k"),
        ("slots", {"text": "t" * 100_000}, "text"),
    ],
)
def test_a_wrong_request(server: Any, url_of: Any, refused: Refused, path: str, body: Any, says: str) -> None:
    body = {name: url_of() if value == "IMAGE" else value for name, value in body.items()}
    assert says in refused(server.client.post(f"/v1/{path}", json=body), 400)["message"]


@pytest.mark.parametrize("path", ["caption", "ask", "remember", "recall", "slots"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""]
)
def test_other_content_types(server: Any, refused: Refused, path: str, kind: str) -> None:
    answer = server.client.post(f"/v1/{path}", content=b"{}", headers={"content-type": kind} if kind else {})
    assert refused(answer, 415)["code"] == "unsupported_media_type"


def test_photos_that_are_none(server: Any, png: Any, refused: Refused, bomb: bytes) -> None:
    for data, says in ((b"", "no bytes"), (b"hello", "not a picture"), (png()[:100], "broken"), (bomb, "bomb")):
        assert says in refused(server.client.post("/v1/caption", content=data, headers=PNG), 400)["message"]
    url = "data:image/png;base64," + base64.b64encode(bomb).decode()
    assert "bomb" in refused(server.client.post("/v1/remember", json={"image": url}), 400)["message"]


@pytest.fixture(scope="session")
def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 30,000 x 30,000 pixels."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_two_servers_share_one_memory_file(serve: Any, tmp_path: Path, png: Any) -> None:
    one, two = serve(memory=tmp_path / "both.mem"), serve(memory=tmp_path / "both.mem", queue=15)
    for i, server in enumerate((one, two, one, two)):
        assert server.client.post("/v1/remember", json={"text": f"thing {i}"}).status_code == 200
    for server in (one, two):
        assert len(server.client.get("/v1/memory").json()["episodes"]) == 4


def test_a_memory_that_another_program_is_writing(server: Any, model: Path, tmp_path: Path, refused: Refused) -> None:
    with load(model).memory(tmp_path / "home.mem") as other:
        other.remember("mine")
        answer = server.client.post("/v1/remember", json={"text": "yours"})
        assert refused(answer, 409)["code"] == "memory_in_use" and answer.headers["retry-after"]
        assert len(server.client.get("/v1/memory").json()["episodes"]) == 1
    assert server.client.post("/v1/remember", json={"text": "yours"}).status_code == 200


@pytest.mark.parametrize(
    ("number", "status", "code"), [("ENOSPC", 507, "memory_disk_full"), ("EIO", 503, "memory_unavailable")]
)
def test_a_disk_that_fails_under_a_remember(
    server: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch, number: str, status: int, code: str
) -> None:
    import errno
    import os

    server.client.post("/v1/remember", json={"text": "before"})

    def fsync(_: int) -> None:
        raise OSError(getattr(errno, number), number)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        error = refused(server.client.post("/v1/remember", json={"text": "lost"}), status)
        assert error["code"] == code and error["type"] == "server_error"
    assert [one["text"] for one in server.client.get("/v1/memory").json()["episodes"]] == ["before"]
    assert server.client.post("/v1/remember", json={"text": "after"}).status_code == 200


def test_a_model_without_a_tower_says_so(
    serve: Any, make_model: Any, tmp_path: Path, png: Any, refused: Refused
) -> None:
    blind = serve(model=make_model(tmp_path / "blind.bitmar", tower=False))
    assert "no vision tower" in refused(blind.client.post("/v1/caption", content=png(), headers=PNG), 400)["message"]
