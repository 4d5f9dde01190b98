"""JSON lines in a file, and a webhook to a server of this machine that fails in every way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bitmar.core.errors import ConfigError, OutputError
from bitmar.watch.event import CaptionEvent, NoticeEvent
from bitmar.watch.sinks import WAITING, JsonLines, Lines, Webhook
from bitmar.watch.source import Notice

EVENT = CaptionEvent("yard", 1.7e9, "A dog \u2603.", new=True)
LOST = NoticeEvent("yard", Notice("lost", "unplugged"))


def test_lines_for_people() -> None:
    out, aside = list[str](), list[str]()
    sink = Lines(out.append, aside.append)
    sink.send(EVENT)
    sink.send(LOST)
    assert "A dog" in out[0] and "unplugged" in aside[0] and len(out) == len(aside) == 1


def test_json_lines_are_added(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "seen"}\n{"event": "se')  # a line that a kill has cut off
    said = list[str]()
    sink = JsonLines(path, said.append)
    sink.send(EVENT)
    sink.send(LOST)
    assert len(path.read_bytes().splitlines()) == 4  # there at once
    sink.close()
    *_, first, second = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == EVENT.document() and json.loads(second) == LOST.document()
    assert not said and sink.lost == 0


def test_a_full_disk_loses_events_and_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    said = list[str]()
    sink = JsonLines(Path("/dev/full"), said.append)
    sink.send(EVENT)
    sink.close()
    assert sink.lost == 1 and "No space left" in said[0]


def test_a_file_of_something_else_is_not_touched(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg())
    with pytest.raises(ConfigError, match="no JSON lines"):
        JsonLines(path, print)
    assert path.read_bytes() == jpeg()
    for wrong in (tmp_path, tmp_path / "none" / "events.jsonl"):
        with pytest.raises(OutputError, match="cannot write"):
            JsonLines(wrong, print)


class Hook(ThreadingHTTPServer):
    """Answers as told, keeps what it got."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers, self.got = list[int](), list[Any]()
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/secret"


class _Answer(BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Content-Type"], json.loads(body)))
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/other")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(autouse=True)
def _hurry(hurry: Any) -> None:
    hurry("sinks", TRIES=(0.0, 0.01, 0.02))


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_webhook_gets_each_event(hook: Hook) -> None:
    said = list[str]()
    sink = Webhook(hook.url, said.append)
    for _ in range(5):
        sink.send(EVENT)
    sink.close()
    assert hook.got == [("application/json", EVENT.document())] * 5 and sink.lost == 0 and not said


@pytest.mark.parametrize(
    ("answers", "asked", "lost"),
    [([503, 429, 204], 3, 0), ([500] * 9, 3, 1), ([404], 1, 1), ([302], 1, 1)],
)
def test_it_is_tried_again_where_that_may_help(
    hook: Hook, until: Callable[..., Any], answers: list[int], asked: int, lost: int
) -> None:
    hook.answers, said = list(answers), list[str]()
    sink = Webhook(hook.url, said.append)
    sink.send(EVENT)
    until(lambda: len(hook.got) == asked and (not lost or sink.lost))
    sink.close()
    assert (len(hook.got), sink.lost, len(said)) == (asked, lost, lost)
    assert not lost or (str(answers[0]) in said[0] and "secret" not in said[0])


def test_a_server_that_is_away_loses_events_but_no_time() -> None:
    said = list[str]()
    sink = Webhook("http://127.0.0.1:9/", said.append)
    sink.send(EVENT)
    sink.close()
    assert sink.lost == 1 and "Connection refused" in said[0]


def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.watch.sinks.GRACE", 0.1)
    held = threading.Event()
    monkeypatch.setattr(Webhook, "_post", lambda *_: (held.wait(10), (False, ""))[1])
    said = list[str]()
    sink = Webhook("http://127.0.0.1:9/", said.append)
    for _ in range(WAITING + 10):
        sink.send(EVENT)
    assert sink.lost in (9, 10)
    sink.close()
    assert sink.lost >= WAITING and "not delivered" in said[-1]
    held.set()


def test_what_is_no_address() -> None:
    for wrong in ("host/path", "ftp://host/", "http://", ""):
        with pytest.raises(ConfigError, match="http"):
            Webhook(wrong, print)
