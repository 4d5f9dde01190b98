from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bitmar.core.errors import ImageError
from bitmar.core.fetch import fetch_photo


class Photos(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        if self.path == "/cut":
            self.send_header("Content-Length", "100")
        self.end_headers()
        if self.path == "/slow":
            time.sleep(0.6)
        self.wfile.write(b"x" * 50)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Photos) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_bytes_come_also_by_a_redirect(server: str) -> None:
    assert fetch_photo(f"{server}/photo") == fetch_photo(f"{server}/to//photo") == b"x" * 50


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none", "answers 404"),
        ("/cut", "after 50 of 100 bytes"),
        ("/slow", "within 0.3 seconds"),
        ("/to/file:///etc/passwd", "not allowed"),
        ("/to/ftp://example.org/photo.jpg", "no http"),
        ("/to/" * 5 + "/photo", "302"),
    ],
)
def test_what_is_no_photo_is_one_error(server: str, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        fetch_photo(server + path, seconds=0.3 if path == "/slow" else 5)


def test_size_and_address(server: str) -> None:
    with pytest.raises(ImageError, match="larger than 49 bytes"):
        fetch_photo(f"{server}/photo", max_bytes=49)
    with pytest.raises(ImageError, match="cannot be fetched"):
        fetch_photo("http://127.0.0.1:9/photo")
    for bad in ("http://", "ftp://example.org/a", "https:///a", "http://[1"):
        with pytest.raises(ImageError):
            fetch_photo(bad)
