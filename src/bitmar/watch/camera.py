"""A camera: a device of this machine (V4L2) or a stream of the network (RTSP and others), which may come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Condition, Event, Thread
from typing import Any

import av

from bitmar.core.errors import ImageError, SourceError
from bitmar.watch.source import Notice, Shot, masked, no_retry
from bitmar.watch.video import LOOK, Frames, decoded, open_video, reason

FIRST, LONGEST = 1.0, 60.0  # seconds before the second and at last before every attempt to have the camera back
TIMEOUT = 10.0  # seconds for a stream to open, and for its next frame
_BEAT = 0.2  # seconds after which a wait looks whether it is to end


class Camera:
    """Gives the latest frame, at most one every LOOK seconds: what nobody had time for is gone.

    A thread reads all frames, so that none is old when it is looked at, and keeps one. A camera that is lost is tried
    again, less and less often. Raises SourceError where it cannot be opened at first.
    """

    waits, endless = False, True
    retry = staticmethod(no_retry)

    def __init__(self, address: str) -> None:
        self._address, self.name = address, masked(address)
        try:
            self._opened: Any = self._open()
        except ImageError as error:
            raise SourceError(f"{self.name}: the camera cannot be opened: {_cause(error)}") from error
        self._ended = Event()
        self._news = Condition()
        self._notices: list[Notice] = []
        self._latest: tuple[Any, float] | None = None  # a frame, and when it came
        self._wait, self._flows = FIRST, False  # before the next attempt; whether frames came in this one
        self._thread = Thread(target=self._read, name="camera", daemon=True)

    def _open(self) -> tuple[Any, Any]:
        if "://" not in self._address:
            return open_video(self._address, format="v4l2")
        tcp = {"rtsp_transport": "tcp"} if self._address.lower().startswith("rtsp") else {}
        return open_video(self._address, options=tcp, timeout=(TIMEOUT, TIMEOUT))

    def shots(self, stop: Event) -> Iterator[Shot | Notice]:
        """Frames as they come, and the notices of losses and returns."""
        frames = Frames()
        self._thread.start()
        while not stop.is_set():
            with self._news:
                self._news.wait_for(lambda: self._notices or self._latest, timeout=_BEAT)
                notices, self._notices = self._notices, []
                latest, self._latest = self._latest, None
            yield from notices
            if latest is not None:
                frame, came = latest
                yield Shot(lambda frame=frame: frames.photo(frame), small=frames.small(frame), time=came)  # type: ignore[misc]

    def _read(self) -> None:
        told, gone = "", 0.0
        while not self._ended.is_set():
            try:
                if self._opened is None:
                    self._opened = self._open()
                frames = self._pass_on(f"after {time.monotonic() - gone:.0f} s" if told else "")
                cause = "" if frames == 1 else "the stream ended"  # one picture each time is a snapshot's address
            except ImageError as error:
                cause = _cause(error)
            except (av.FFmpegError, OSError) as error:
                cause = reason(error)
            if self._opened is not None:
                self._close()
            if self._flows:
                told, self._wait, self._flows = "", FIRST, False
            if cause and cause != told and not self._ended.is_set():  # said once, not at every attempt
                gone = gone if told else time.monotonic()
                self._tell(Notice("lost", f"{cause}; tried again in {self._wait:.0f} s"))
                told = cause
            self._ended.wait(self._wait)
            self._wait = min(2 * self._wait, LONGEST)

    def _pass_on(self, back: str) -> int:
        """Frames until the stream ends: how many. With the first one the camera is `back`."""
        container, stream = self._opened
        due, count = 0.0, 0
        for frame in decoded(container, stream):
            if self._ended.is_set():
                break
            count += 1
            if back and not self._flows:
                self._tell(Notice("back", back))
            self._flows = True
            if (now := time.monotonic()) >= due:
                due = now + LOOK
                with self._news:
                    self._latest = (frame, time.time())
                    self._news.notify()
        return count

    def _tell(self, notice: Notice) -> None:
        with self._news:
            self._notices.append(notice)
            self._news.notify()

    def _close(self) -> None:
        container, _ = self._opened
        self._opened = None
        container.close()

    def close(self) -> None:
        """End the thread; one that waits for a frame ends with the process."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(2)
        elif self._opened is not None:
            self._close()


def _cause(error: ImageError) -> str:
    """FFmpeg's reason alone: the message of the error names the address, which may hold a password."""
    return reason(error.__cause__) if error.__cause__ is not None else str(error).rpartition(": ")[2]
