"""The loop: a shot that is worth it is captioned, compared with the memory, and sent to every sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Event as Flag
from typing import Any

from PIL import Image

from bitmar.api import BitMar
from bitmar.core.errors import ImageError, MemoryBusyError, MemoryFileError
from bitmar.core.files import shown
from bitmar.core.image import load_photo
from bitmar.runtime.cache import ImageTokens
from bitmar.session.recite import SURE
from bitmar.session.session import Recalled, Session, shows_nothing
from bitmar.watch.changes import Changes
from bitmar.watch.event import CaptionEvent, Event, NoticeEvent
from bitmar.watch.sinks import Sink
from bitmar.watch.source import Notice, Shot, Source

SAME_VIEW = 0.9
"""Resemblance from which on a camera sees again what it has seen. The place alone, which is always the same, makes two
of its frames alike: less than this with something large in one of them, more with nothing or little."""

_MINUTE = 60.0


class Watcher:
    """Watches a source with a model and, where there is one, a memory.

    session: what is recalled; `remember`: and into which what is new is written, its caption as the text. per_minute:
    captions at most, None for any number. share: of a camera's picture that must change. Sinks are told of everything,
    in the order given. captions, skipped: how many there were, and photos or parts that could not be read.
    """

    def __init__(
        self,
        model: BitMar,
        session: Session | None,
        sinks: Sequence[Sink],
        *,
        remember: bool = True,
        per_minute: int | None = None,
        share: float = 0.02,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.session, self.sinks, self.remember = model, session, sinks, remember
        self.per_minute, self.options = per_minute, options or {}
        self.captions = self.skipped = 0
        self._changes = Changes(share)
        self._times: deque[float] = deque(maxlen=per_minute)  # of the last captions, by the source's clock

    def run(self, source: Source, stop: Flag) -> None:
        """To the source's end, or until `stop` is set.

        Raises MemoryFileError for a memory that is damaged, ImageError for a model that can read no photo.
        """
        for shot in source.shots(stop):
            if isinstance(shot, Notice):
                self._tell(NoticeEvent(source.name, shot))
                continue
            if shot.small is not None and not self._changes.worth(shot.small, shot.clock):
                continue
            early = self._early(shot.clock)
            if early and (not source.waits or stop.wait(early)):
                continue  # a camera's change is still there when its turn comes
            try:
                self._tell(self._look(source.name, shot))
                self._times.append(shot.clock + early)
            except ImageError as error:
                if self.model.config.vision_tower is None:
                    raise
                if not source.retry(shot):
                    path = None if shot.path is None else shown(shot.path)
                    self._tell(NoticeEvent(source.name, Notice("skipped", shown(str(error)), path)))

    def _early(self, clock: float) -> float:
        """How many seconds before its turn a shot of this time comes."""
        if self.per_minute is None or len(self._times) < self.per_minute:
            return 0.0
        wait = self._times[0] + _MINUTE - clock
        return wait if 0 < wait <= _MINUTE else 0.0  # a clock that was set back is no reason to wait

    def _tell(self, event: Event) -> None:
        if isinstance(event, CaptionEvent):
            self.captions += 1
        elif event.notice.kind == "skipped":
            self.skipped += 1
        for sink in self.sinks:
            sink.send(event)

    def _look(self, name: str, shot: Shot) -> CaptionEvent:
        """Raises ImageError."""
        photo = load_photo(shot.photo())
        image = self.model.encode_image(photo)
        caption = self.model.caption(image, **self.options)
        if shot.small is not None:
            self._changes.looked(shot.small)
        return CaptionEvent(
            name,
            shot.time,
            str(caption),
            None if shot.path is None else shown(shot.path),
            shot.at,
            caption.confidence,
            caption.general,
            **self._memory(name, image, photo, str(caption), shot.small is not None),
        )

    def _memory(self, name: str, image: ImageTokens, photo: Image.Image, caption: str, fixed: bool) -> dict[str, Any]:
        """What the memory adds. fixed: the camera stands still. Raises MemoryFileError for a memory that is damaged."""
        session = self.session
        if session is None or shows_nothing(photo):
            return {}
        found = next(iter(session.recall(image=image)), None)
        if found is not None and is_known(found, fixed):
            return {"new": False, "like": found}
        if not self.remember:
            return {"new": True}
        try:
            episode = session.remember(caption, photo)
        except MemoryFileError as error:
            if not isinstance(error, MemoryBusyError) and not isinstance(error.__cause__, OSError):
                raise
            self._tell(NoticeEvent(name, Notice("skipped", f"not remembered: {error}")))  # a full disk, another writer
            return {"new": True}
        finally:
            session.close()  # another program may teach it something
        lost = episode.lost.text if episode.lost else None
        return {"new": True, "remembered": episode.slot, "forgotten": lost}


def is_known(found: Recalled, fixed: bool) -> bool:
    """Whether an episode that was recalled shows the same. fixed: to a camera that stands still."""
    if fixed or found.confidence is None:
        return found.score >= SAME_VIEW
    return found.confidence >= SURE
