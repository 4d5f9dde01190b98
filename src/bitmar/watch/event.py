"""Events of a shot or of the source: a line for people, a document for programs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bitmar.runtime.confidence import honest
from bitmar.session.session import Recalled
from bitmar.watch.source import Notice


@dataclass(frozen=True, slots=True)
class CaptionEvent:
    """A caption, and what the memory says to it.

    source: its name. new: never seen before; None where there is no memory, or nothing to remember it by. like: the
    episode that it resembles, where it is not new. remembered: the slot that it was written to. forgotten: the text
    that was overwritten there.
    """

    source: str
    time: float
    caption: str
    path: str | None = None
    at: float | None = None
    confidence: float | None = None
    general: str | None = None
    new: bool | None = None
    like: Recalled | None = None
    remembered: int | None = None
    forgotten: str | None = None

    @property
    def known(self) -> str:
        """In words: "never seen", or "like Tuesday 14:02: our dog Rex"; "" without a memory."""
        if self.like is not None:
            text = self.like.episode.text
            said = f": {text}" if text and text != self.caption else ""
            return f"like {when(self.like.episode.time, self.time)}{said}"
        return "never seen" if self.new else ""

    def line(self) -> str:
        """For people."""
        words = honest(self.caption, self.confidence, self.general)
        sure = "" if self.confidence is None else f"{self.confidence:.0%} sure"
        about = "; ".join(filter(None, (sure, self.known)))
        return f"{_place(self.time, self.path, self.at)}{words}{about and f' ({about})'}"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        like = None
        if self.like is not None:
            episode = self.like.episode
            like = {
                "slot": episode.slot,
                "text": episode.text,
                "time": iso(episode.time),
                "score": round(self.like.score, 4),
            }
        return {
            "event": "seen",
            "time": iso(self.time),
            "source": self.source,
            "photo": self.path,
            "at": self.at,
            "caption": self.caption,
            "confidence": None if self.confidence is None else round(self.confidence, 3),
            "general": self.general,
            "new": self.new,
            "known": self.known or None,
            "like": like,
            "remembered": self.remembered,
            "forgotten": self.forgotten,
        }


@dataclass(frozen=True, slots=True)
class NoticeEvent:
    """A notice of the source of this name."""

    source: str
    notice: Notice

    def line(self) -> str:
        """For people."""
        notice = self.notice
        if notice.kind == "skipped":
            return f"skipped {notice.reason}"
        return f"{_place(notice.time)}{self.source}: {notice.kind}, {notice.reason}"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        notice = self.notice
        about = {"event": notice.kind, "time": iso(notice.time), "source": self.source, "reason": notice.reason}
        return {**about, "photo": notice.path} if notice.kind == "skipped" else about


Event = CaptionEvent | NoticeEvent


def iso(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601, with the offset of this place."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def when(then: float, now: float) -> str:
    """A time as people say it now: "today 14:02", "Tuesday 14:02", "3 November 14:02", with the year of another one."""
    past, present = datetime.fromtimestamp(then), datetime.fromtimestamp(now)
    days = (present.date() - past.date()).days
    if days == 0:
        day = "today"
    elif 0 < days < 7:
        day = _DAYS[past.weekday()]
    else:
        day = f"{past.day} {_MONTHS[past.month - 1]}" + (f" {past.year}" if past.year != present.year else "")
    return f"{day} {past:%H:%M}"


# Not strftime's, which are those of the locale; the captions are English.
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def _place(time: float, path: str | None = None, at: float | None = None) -> str:
    if at is not None:
        minutes, seconds = divmod(int(at), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}  "
    return f"{datetime.fromtimestamp(time):%H:%M:%S}  {path + ': ' if path else ''}"
