"""Photos by address: only from the public internet, whatever names, redirects and second answers say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any

import pytest

anyio = pytest.importorskip("anyio", reason="the server needs bitmar[serve]")
fetching = pytest.importorskip("bitmar.serve.fetch", reason="the server needs bitmar[serve]")

PRIVATE = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fec0::1", "fc00::1", "ff02::1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:c0a8:101::1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses(address: str) -> None:
    assert not fetching.is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert fetching.is_public(ip_address(address))


@pytest.fixture
def site() -> Iterator[Any]:
    """A web server on this machine; `pages[path]` is (status, headers, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked.append((self.path, self.headers["host"]))  # type: ignore[attr-defined]
            status, headers, body = self.server.pages[self.path]  # type: ignore[attr-defined]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine's own address pass for a public one: there is no other server to ask."""
    true = fetching.is_public
    monkeypatch.setattr(fetching, "is_public", lambda address: str(address) == "127.0.0.1" or true(address))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """names[host]: what it resolves to, the answers one after the other; the last is kept."""
    table: dict[str, list[str]] = {}

    async def resolve(host: str, port: int) -> list[Any]:
        answers = table[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(one) for one in answer.split()]

    monkeypatch.setattr(fetching, "resolve", resolve)
    return table


def fetch(url: str, most: int = 10_000) -> bytes:
    async def one() -> Any:
        return await fetching.fetch(url, most)

    data: bytes = anyio.run(one)
    return data


def fails(url: str, most: int = 10_000) -> str:
    with pytest.raises(fetching.ApiError) as caught:
        fetch(url, most)
    assert caught.value.status == 400
    return str(caught.value)


def test_a_photo_is_fetched_by_its_name(site: Any, public: None, names: dict[str, list[str]]) -> None:
    names["photos.example"] = ["127.0.0.1"]
    site.pages["/a.png?x=1"] = (200, {}, b"data")
    port = site.server_port
    assert fetch(f"http://photos.example:{port}/a.png?x=1") == b"data"
    assert site.asked == [("/a.png?x=1", f"photos.example:{port}")]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f000001", "127.1", "0177.0.0.1", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_not_looked_into(site: Any, host: str) -> None:
    site.pages["/"] = (200, {}, b"secret")
    says = fails(f"http://{host}:{site.server_port}/")
    assert "public internet" in says or "no address" in says or "Invalid IPv4" in says
    assert not site.asked


def test_a_name_with_one_private_address_is_refused(site: Any, names: dict[str, list[str]]) -> None:
    names["mixed.example"] = ["8.8.8.8 10.0.0.1"]
    assert "public internet" in fails("http://mixed.example/")


def test_a_name_that_changes_its_mind_is_asked_once(site: Any, public: None, names: dict[str, list[str]]) -> None:
    """DNS rebinding: the connection goes to the address that was checked."""
    names["rebind.example"] = ["127.0.0.1", "10.0.0.1"]
    site.pages["/"] = (200, {}, b"data")
    assert fetch(f"http://rebind.example:{site.server_port}/") == b"data"
    assert names["rebind.example"] == ["10.0.0.1"]
    assert "public internet" in fails(f"http://rebind.example:{site.server_port}/")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://inside.example/", "public internet"),
        ("//inside.example/", "public internet"),
        ("http://169.254.169.254/latest", "public internet"),
        ("file:///etc/passwd", "begins with http"),
        ("gopher://photos.example/", "begins with http"),
        ("http://user:secret@photos.example/", "no user name"),
    ],
)
def test_every_redirect_is_checked(
    site: Any, public: None, names: dict[str, list[str]], target: str, says: str
) -> None:
    names |= {"photos.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"], "169.254.169.254": ["169.254.169.254"]}
    site.pages["/"] = (302, {"location": target}, b"")
    assert says in fails(f"http://photos.example:{site.server_port}/")


def test_redirects(site: Any, public: None, names: dict[str, list[str]]) -> None:
    names["photos.example"] = ["127.0.0.1"]
    site.pages |= {"/1": (301, {"location": "/2"}, b""), "/2": (307, {"location": "3"}, b""), "/3": (200, {}, b"data")}
    site.pages["/loop"] = (302, {"location": "/loop"}, b"")
    base = f"http://photos.example:{site.server_port}"
    assert fetch(base + "/1") == b"data"
    assert "redirects" in fails(base + "/loop") and site.asked.count(("/loop", base[7:])) == 4


def test_size_time_and_status(
    site: Any, public: None, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["photos.example"] = ["127.0.0.1"]
    base = f"http://photos.example:{site.server_port}"
    site.pages |= {
        "/large": (200, {}, b"x" * 10_001),
        "/none": (404, {}, b""),
        "/slow": (200, {"content-length": "9"}, b"x"),
    }
    site.pages["/fits"] = (200, {"content-encoding": "gzip"}, b"x" * 10_000)  # never unpacked
    assert "larger than 10,000" in fails(base + "/large")
    assert "answers 404" in fails(base + "/none")
    assert fetch(base + "/fits") == b"x" * 10_000
    assert "could not be fetched" in fails(base + "/slow")
    monkeypatch.setattr(fetching, "SECONDS", 0.2)

    async def resolve(host: str, port: int) -> list[Any]:
        await anyio.sleep(5)
        return []

    monkeypatch.setattr(fetching, "resolve", resolve)
    assert "within 0.2 seconds" in fails(base + "/fits")


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[::1", "http://a b/", "http://\x00/", "https://x:99999/"]
)
def test_what_is_no_address(url: str) -> None:
    fails(url)


def test_a_request_by_address(serve: Callable[..., Any], site: Any, public: None, png: Any, refused: Any) -> None:
    server = serve(allow_urls=True)
    site.pages["/a.png"] = (200, {}, png())
    port = site.server_port
    sent = server.client.post("/v1/caption", json={"image": f"http://127.0.0.1:{port}/a.png"}).json()
    assert (
        sent["caption"]
        == server.client.post("/v1/caption", content=png(), headers={"content-type": "image/png"}).json()["caption"]
    )
    refused(server.client.post("/v1/caption", json={"image": f"http://10.0.0.1:{port}/a.png"}), 400)
