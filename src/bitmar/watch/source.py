"""Sources: they give shots, and notices of what befalls them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bitmar.core.image import PhotoSource

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shot:
    """Something to look at. photo(): what `BitMar.encode_image` takes, read only when it is looked at.

    path: of a photo's file. at: seconds into a video. small: a frame as `changes.small` makes it; None for a photo,
    which is always something new to look at. time: seconds since 1970.
    """

    photo: Callable[[], PhotoSource]
    path: str | None = None
    at: float | None = None
    small: Grey | None = None
    time: float = field(default_factory=time.time)

    @property
    def clock(self) -> float:
        """Seconds on the source's own clock: a video is watched faster than it was filmed."""
        return self.time if self.at is None else self.at


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice of the source. lost: it is gone, and tried again until it is back. skipped: a part of it cannot be read.

    path: of the photo that was skipped.
    """

    kind: Literal["lost", "back", "skipped"]
    reason: str
    path: str | None = None
    time: float = field(default_factory=time.time)


class Source(Protocol):
    """name: as people know it, without a password. waits: a shot that comes too early may be looked at later; of a
    video the frame has gone by then. endless: it ends only when it is told to.
    """

    name: str
    waits: bool
    endless: bool

    def shots(self, stop: Event) -> Iterator[Shot | Notice]:
        """Until `stop` is set, or to the end of a video."""
        ...

    def retry(self, shot: Shot) -> bool:
        """Whether a photo that could not be read will come again: it may still be arriving."""
        ...

    def close(self) -> None:
        """Let go of files, threads and the network."""
        ...


def masked(name: str) -> str:
    """An address as it may be shown: without user and password."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", name)


def no_retry(*_: Any) -> bool:
    """`Source.retry` of a source whose shots do not come again."""
    return False
