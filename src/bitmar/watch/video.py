"""Pictures out of videos, by PyAV (FFmpeg): a file watched from end to end, or one frame that stands for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from bitmar.core.errors import ImageError, SourceError
from bitmar.core.image import MAX_PIXELS
from bitmar.watch.changes import HEIGHT, WIDTH
from bitmar.watch.source import Grey, Notice, Shot, no_retry

LOOK = 0.5  # seconds between two frames that are looked at
_DAMAGED = 100  # packets in a row that may be
_SHRUNK = 2_000_000  # pixels above which a frame comes smaller; the model sees much less


class Frames:
    """Makes pictures of frames. One for each stream: what scales them is kept and used again."""

    def __init__(self) -> None:
        self._scale = VideoReformatter()

    def small(self, frame: Any) -> Grey:
        """Grey, uint8 (HEIGHT, WIDTH), each pixel the mean of an area."""
        return np.asarray(
            self._scale.reformat(frame, WIDTH, HEIGHT, "gray", interpolation="AREA").to_ndarray(), np.uint8
        )

    @staticmethod
    def photo(frame: Any) -> Image.Image:
        """Upright, in RGB."""
        part = max(1.0, (frame.width * frame.height / _SHRUNK) ** 0.5)
        size = {"width": round(frame.width / part), "height": round(frame.height / part)} if part > 1 else {}
        image: Image.Image = frame.to_image(**size)
        turn = getattr(frame, "rotation", 0)
        return image.rotate(turn, expand=True) if turn else image


class Video:
    """A file from its beginning to its end, faster than it was filmed. Raises SourceError for what is no video."""

    waits = endless = False
    retry = staticmethod(no_retry)

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self._container, self._stream = open_video(path)
        except ImageError as error:
            raise SourceError(str(error)) from error

    def shots(self, stop: Event) -> Iterator[Shot | Notice]:
        """A frame every LOOK seconds of the video."""
        frames, at, due, first = Frames(), 0.0, 0.0, None
        try:
            for frame in decoded(self._container, self._stream):
                if stop.is_set():
                    return
                if frame.time is not None:
                    first = frame.time if first is None else first
                    at = frame.time - first
                if at >= due:
                    due = (at // LOOK + 1) * LOOK
                    yield Shot(lambda frame=frame: frames.photo(frame), at=round(at, 3), small=frames.small(frame))  # type: ignore[misc]
        except (av.FFmpegError, OSError) as error:
            yield Notice("skipped", f"cannot be read after {at:.1f} s: {reason(error)}")

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def still_of(path: str | Path) -> Image.Image:
    """A frame from the middle of a video, where the first one is often black; in RGB. Raises ImageError."""
    container, stream = open_video(str(path))
    with container:
        try:
            if container.duration:
                container.seek(container.duration // 2)  # to the key frame before it
            for frame in decoded(container, stream):
                return Frames.photo(frame)
        except (av.FFmpegError, OSError) as error:
            raise ImageError(f"{path}: the video cannot be decoded: {reason(error)}") from error
    raise ImageError(f"{path}: a video without a single frame")


def open_video(name: str, **options: Any) -> tuple[Any, Any]:
    """A container and its stream of pictures. Raises ImageError."""
    try:
        container = av.open(name, **options)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"{name}: no video that can be opened: {reason(error)}") from error
    stream = next(iter(container.streams.video), None)
    if stream is None or stream.codec_context is None:
        container.close()
        raise ImageError(f"{name}: there is sound but no picture in it" if stream is None else f"{name}: unknown video")
    if stream.width * stream.height > MAX_PIXELS:
        container.close()
        raise ImageError(f"{name}: {stream.width}x{stream.height} pixels are more than a video has")
    return container, stream


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream. A few packets that are damaged, as they are in any bad network, are passed over.

    Raises FFmpegError.
    """
    damaged = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            damaged += 1
            if damaged > _DAMAGED:
                raise
            continue
        damaged = 0
        yield from frames


def reason(error: BaseException) -> str:
    """FFmpeg's message, without the address, which may hold a password."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
