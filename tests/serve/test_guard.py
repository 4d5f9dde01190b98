"""What stands before every request: limits, keys, names, headers, figures."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

Refused = Callable[..., dict[str, Any]]
CAPTION, PNG = "/v1/caption", {"content-type": "image/png"}
KEY = "a key with ünïcode"


def talk(port: int, *parts: bytes, pause: float = 0.0, wait: float = 10.0) -> bytes:
    """Send the parts one by one; all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break  # the server has had enough
            time.sleep(pause)
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
        return answer


def head(length: int | None, path: str = CAPTION) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n{size}\r\n\r\n".encode()


def test_a_body_that_is_too_large(serve: Any, refused: Refused) -> None:
    server = serve(max_body=50_000)
    error = refused(server.client.post(CAPTION, content=b"x" * 50_001, headers=PNG), 413)
    assert "50,000 bytes" in error["message"]
    chunked = server.client.post(CAPTION, content=iter([b"x" * 10_000] * 6), headers=PNG)
    assert refused(chunked, 413)["code"] == "request_too_large"
    assert server.client.post(CAPTION, content=b"x" * 8_000_000, headers=PNG).status_code == 413
    assert server.client.get("/health").status_code == 200


def test_a_body_that_comes_too_slowly(serve: Any) -> None:
    server = serve(upload_seconds=0.3)
    for beginning, part in ((head(1000), b"x"), (head(None), b"1\r\nx\r\n")):
        start = time.perf_counter()
        answer = talk(server.port, beginning, *[part] * 5, pause=0.1)
        assert answer.startswith(b"HTTP/1.1 408") and b"upload_timeout" in answer
        assert time.perf_counter() - start < 8


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /health HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
def test_a_head_that_never_ends(serve: Any, beginning: bytes) -> None:
    start = time.perf_counter()
    answer = talk(serve(upload_seconds=0.3).port, beginning)
    assert time.perf_counter() - start < 8
    assert answer == b"" or (answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1)


def test_nonsense_is_no_fault(server: Any) -> None:
    for nonsense in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET \xff HTTP/1.1\r\n\r\n"):
        answer = talk(server.port, nonsense)
        assert answer.startswith(b"HTTP/1.1 400") and json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    assert server.client.get("/health").status_code == 200


def test_a_key(serve: Any, refused: Refused, png: Any) -> None:
    client = serve(api_key=KEY).client
    for wrong in ("", "Bearer", "Bearer x", f"Basic {KEY}", "Bearer " + KEY[:-1], "Bearer " + KEY + "x"):
        for method, path in (("GET", "/v1/models"), ("POST", CAPTION), ("GET", "/metrics"), ("DELETE", "/v1/memory/0")):
            answer = client.request(method, path, headers={"authorization": wrong.encode()} if wrong else {})
            error = refused(answer, 401)
            assert error["type"] == "authentication_error" and error["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    right = {"authorization": f"Bearer {KEY}".encode()}
    assert client.get("/v1/models", headers=right).status_code == 200
    assert client.post(CAPTION, content=png(), headers={**PNG, **right}).status_code == 200
    assert client.get("/health").status_code == client.get("/").status_code == 200


def test_another_name_is_refused(server: Any, serve: Any, refused: Refused) -> None:
    for name in ("evil.example", "evil.example:8000", "localhost.evil.example", ""):
        assert refused(server.client.get("/health", headers={"host": name}), 421)["code"] == "unknown_host"
    for name in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert server.client.get("/health", headers={"host": name}).status_code == 200
    assert serve(hosts=()).client.get("/health", headers={"host": "any.example"}).status_code == 200


def test_other_sites_may_not_call_unless_named(server: Any, serve: Any) -> None:
    asking = {"origin": "https://mine.example", "access-control-request-method": "POST"}
    plain = server.client.options(CAPTION, headers=asking)
    assert plain.status_code == 405 and not any("access-control" in name for name in plain.headers)
    client = serve(origins=("https://mine.example",), api_key="k").client
    allowed = client.options(CAPTION, headers=asking)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://mine.example"
    other = client.options(CAPTION, headers={**asking, "origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_every_answer_has_a_name_and_a_policy(server: Any) -> None:
    for method, path, given in (("GET", "/health", "mine-1"), ("GET", "/nothing", ""), ("POST", CAPTION, "a b\tc")):
        answer = server.client.request(method, path, headers={"x-request-id": given} if given else {})
        assert (answer.headers["x-request-id"] == given) is (given == "mine-1")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "/v1/nothing", "/page/../settings.py", "/page/%2e%2e/settings.py", "/docs"]
)
def test_what_is_not_there(server: Any, refused: Refused, path: str) -> None:
    refused(server.client.get(path), 404)


def test_traversal_on_the_wire(server: Any) -> None:
    for path in (
        b"/page/../app.py",
        b"/page/..%2fapp.py",
        b"/page/%2e%2e/app.py",
        b"/page//etc/passwd",
        b"/page/..\\app.py",
    ):
        answer = talk(server.port, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 404"), answer


def test_a_wrong_method(server: Any, refused: Refused) -> None:
    answer = server.client.put(CAPTION)
    refused(answer, 405)
    assert "POST" in answer.headers["allow"]


def test_more_requests_than_may_wait_are_told_to_come_again(serve: Any, png: Any, refused: Refused) -> None:
    server = serve(threads=1, queue=1)
    held, free = threading.Event(), threading.Event()

    def work() -> None:
        held.set()
        free.wait(20)

    running = [server.context.pool.submit(work), server.context.pool.submit(work)]
    held.wait(20)
    try:
        for stream in ("false", "true"):
            answer = server.client.post(f"{CAPTION}?stream={stream}", content=png(), headers=PNG)
            assert refused(answer, 429)["type"] == "rate_limit_error" and answer.headers["retry-after"] == "1"
        assert server.client.get("/health").status_code == 200  # needs no engine
    finally:
        free.set()
        for future in running:
            future.result(20)
    assert server.client.post(CAPTION, content=png(), headers=PNG).status_code == 200


def test_more_requests_at_once_than_may_be(serve: Any, png: Any, refused: Refused) -> None:
    server = serve(requests=1, upload_seconds=1.0)
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(head(1000))
        time.sleep(0.2)
        assert refused(server.client.post(CAPTION, content=png(), headers=PNG), 429)["code"] == "rate_limit_exceeded"
    time.sleep(0.2)
    assert server.client.post(CAPTION, content=png(), headers=PNG).status_code == 200


def test_a_request_that_takes_too_long(serve: Any, refused: Refused) -> None:
    server = serve(request_seconds=0.2, queue=3)
    free = threading.Event()
    blocking = server.context.pool.submit(lambda: free.wait(20))
    body = {"model": "bitmar", "messages": [{"role": "user", "content": "the dog"}]}
    try:
        assert refused(server.client.post("/v1/chat/completions", json=body), 503)["code"] == "timeout"
    finally:
        free.set()
        blocking.result(20)
    assert server.context.pool.held == 0  # what timed out before its turn never ran


def test_a_client_that_goes_away_frees_the_engine(serve: Any) -> None:
    server = serve(queue=4)
    body = {"model": "bitmar", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1000, "stream": True}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    until = time.monotonic() + 10
    while server.context.pool.held and time.monotonic() < until:
        time.sleep(0.02)
    assert server.context.pool.held == 0


def test_many_at_once(serve: Any, png: Any) -> None:
    server = serve(threads=2, queue=40)
    expected = server.client.post(CAPTION, content=png(0), headers=PNG).json()["caption"]

    def one(i: int) -> Any:
        if i % 4 == 3:
            return server.client.post("/v1/remember", json={"text": f"thing {i}"}).status_code == 200
        return server.client.post(f"{CAPTION}?memory=false", content=png(0), headers=PNG).json()["caption"] == expected

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(one, range(32)))


def test_figures(server: Any, png: Any) -> None:
    server.client.post(CAPTION, content=png(), headers=PNG)
    server.client.get("/made/up")
    answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    figures = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(figures['bitmar_requests_total{method="POST",path="/v1/caption",status="200"}']) >= 1
    assert float(figures['bitmar_tokens_total{kind="completion"}']) >= 1
    assert "bitmar_engine_requests" in figures and "/made/up" not in answer.text


def test_health(server: Any) -> None:
    about = server.client.get("/health").json()
    assert about["status"] == "ok" and about["model"] == "tiny" and about["engine"] == "numpy"
    assert about["reload_error"] is None and about["reloads"] == 0


def test_a_fault_of_ours_is_a_500_with_a_name(
    serve: Any, png: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(queue=5)
    monkeypatch.setattr("bitmar.serve.own.write", lambda *_: 1 / 0)
    answer = server.client.post(CAPTION, content=png(), headers={**PNG, "x-request-id": "abc"})
    error = refused(answer, 500)
    assert error["code"] == "internal_error" and "abc" in error["message"] and "division" not in json.dumps(error)
