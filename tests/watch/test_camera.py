"""A stream of the network that breaks off, stays away, and returns."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="watching a video needs bitmar[watch]")

from bitmar.core.errors import SourceError
from bitmar.watch.camera import Camera
from bitmar.watch.source import Notice, Shot


class Feed(ThreadingHTTPServer):
    """Sends a stream to whoever asks, once for each time that it is `plugged` in."""

    daemon_threads = True

    def __init__(self, stream: bytes) -> None:
        self.stream, self.plugged, self.asked = stream, True, 0
        super().__init__(("127.0.0.1", 0), _Send)


class _Send(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.server.asked += 1
        if not self.server.plugged:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.stream)))
        self.end_headers()
        self.wfile.write(self.server.stream)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(autouse=True)
def _hurry(hurry: Any) -> None:
    hurry("camera", FIRST=0.1)


@pytest.fixture
def feed(write_video: Callable[..., Path], tmp_path: Path) -> Iterator[Feed]:
    server = Feed(write_video(tmp_path / "feed.ts", [(1, 1), (2, 1)], "mpeg2video").read_bytes())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_a_camera_that_is_lost_is_told_and_had_back(feed: Feed, until: Callable[..., Any]) -> None:
    camera = Camera(f"http://user:secret@127.0.0.1:{feed.server_port}/feed")
    assert "secret" not in camera.name
    stop, given = threading.Event(), list[Any]()
    feed.plugged = False  # it has been opened once

    def run() -> None:
        for each in camera.shots(stop):
            given.append(each)

    def kinds() -> list[str]:
        return [each.kind for each in given if isinstance(each, Notice)]

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: kinds()[:2] == ["lost", "lost"])  # the stream ended; then the server refuses
    asked = feed.asked
    until(lambda: feed.asked > asked + 1)
    assert kinds() == ["lost", "lost"]  # not said again at every attempt
    first, second = (each.reason for each in given if isinstance(each, Notice))
    assert first.startswith("the stream ended; tried again in") and "5XX" in second
    shots = sum(isinstance(each, Shot) for each in given)
    assert shots and all(each.at is None for each in given if isinstance(each, Shot))
    feed.plugged = True
    until(lambda: "back" in kinds())
    until(lambda: sum(isinstance(each, Shot) for each in given) > shots)
    stop.set()
    thread.join(10)
    camera.close()
    assert not thread.is_alive() and not camera._thread.is_alive()
    assert not any("secret" in each.reason for each in given if isinstance(each, Notice))


def test_an_address_of_one_picture_is_asked_again_and_again(
    feed: Feed, until: Callable[..., Any], picture: Any
) -> None:
    data = io.BytesIO()
    picture(1).save(data, "JPEG")
    feed.stream = data.getvalue()
    camera = Camera(f"http://127.0.0.1:{feed.server_port}/snapshot.jpg")
    stop, given = threading.Event(), list[Any]()

    def run() -> None:
        for each in camera.shots(stop):
            given.append(each)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(given) >= 4)
    feed.plugged = False
    until(lambda: isinstance(given[-1], Notice))
    feed.plugged = True
    until(lambda: isinstance(given[-1], Shot))
    stop.set()
    thread.join(10)
    camera.close()
    assert [each.kind for each in given if isinstance(each, Notice)] == ["lost", "back"]
    assert given[0].photo().size == (64, 48)


def test_a_camera_that_was_never_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Connection refused") as error:
        Camera("rtsp://user:secret@127.0.0.1:9/x")
    assert "secret" not in str(error.value)
    with pytest.raises(SourceError):
        Camera("/dev/null")
