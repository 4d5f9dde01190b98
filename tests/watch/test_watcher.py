"""The loop, with shots made up here: how often it looks, and what the memory says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitmar import load
from bitmar.core.errors import ImageError, MemoryBusyError, MemoryFileError
from bitmar.session.layout import Episode
from bitmar.session.session import Recalled
from bitmar.watch.event import CaptionEvent, NoticeEvent
from bitmar.watch.source import Notice, Shot
from bitmar.watch.watcher import Watcher, is_known

Picture = Callable[..., Image.Image]


class Fake:
    """A source of these shots."""

    name = "yard"

    def __init__(self, given: list[Any], *, waits: bool = False, retries: int = 0) -> None:
        self.given, self.waits, self.endless, self.retries = given, waits, False, retries

    def shots(self, stop: threading.Event) -> Iterator[Any]:
        for each in self.given:
            if stop.is_set():
                return
            yield each

    def retry(self, shot: Shot) -> bool:
        self.retries -= 1
        if self.retries >= 0:
            self.given.append(shot)
        return self.retries >= 0

    def close(self) -> None: ...


def frame(picture: Image.Image, at: float) -> Shot:
    """Of a video."""
    small = np.asarray(picture.convert("L").resize((48, 36)))
    return Shot(lambda: picture, at=at, small=small)


@pytest.fixture(scope="module")
def bundled() -> Any:
    """What it recognises a photo by is calibrated."""
    return load()


@pytest.fixture
def bitmar(model: Path) -> Any:
    return load(model, engine="numpy")


def test_a_changed_picture_is_captioned_remembered_and_known_again(bundled: Any, picture: Picture, kept: Any) -> None:
    scenes = [1] * 6 + [2] * 6 + [1] * 6
    shots = [frame(picture(seed), i / 2) for i, seed in enumerate(scenes)]
    watcher = Watcher(bundled, bundled.memory(), [kept])
    watcher.run(Fake(shots), threading.Event())
    first, second, third = kept.events
    assert [each.at for each in kept.events] == [0, 3.5, 6.5] and watcher.captions == 3
    assert (first.new, second.new, third.new) == (True, True, False)
    assert first.caption == bundled.caption(picture(1)) == third.like.episode.text
    assert third.like.episode.slot == first.remembered and third.remembered is None
    assert third.known.startswith("like today ")


def test_what_was_taught_keeps_its_name(bitmar: Any, picture: Picture, kept: Any) -> None:
    session = bitmar.memory()
    session.remember("our dog Rex", picture(1))
    Watcher(bitmar, session, [kept]).run(Fake([frame(picture(1), 0)]), threading.Event())
    assert kept.events[0].known.endswith(": our dog Rex")
    assert [episode.text for episode in session.inspect()] == ["our dog Rex"]


def test_without_remembering_everything_stays_new(bitmar: Any, picture: Picture, kept: Any) -> None:
    session = bitmar.memory()
    shots = [frame(picture(seed), 2 * i) for i, seed in enumerate([1, 1, 2, 2, 2, 1, 1, 1])]
    Watcher(bitmar, session, [kept], remember=False).run(Fake(shots), threading.Event())
    assert [each.new for each in kept.events] == [True] * 3 and len(session) == 0
    assert all(each.remembered is None for each in kept.events)
    kept.events.clear()
    Watcher(bitmar, None, [kept]).run(Fake(shots), threading.Event())
    assert [each.new for each in kept.events] == [None] * 3 and kept.events[0].known == ""


def test_what_a_full_memory_overwrites_is_named(
    bitmar: Any, picture: Picture, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitmar.watch.watcher.is_known", lambda *_: False)
    shots = [Shot(lambda seed=seed: picture(seed), path=f"{seed}.jpg") for seed in range(6)]  # type: ignore[misc]
    Watcher(bitmar, bitmar.memory(), [kept]).run(Fake(shots, waits=True), threading.Event())
    assert [each.forgotten is not None for each in kept.events] == [False] * 4 + [True] * 2


def test_at_most_so_many_a_minute(bitmar: Any, picture: Picture, kept: Any) -> None:
    shots = [frame(picture(int(i / 4)), i / 2) for i in range(400)]  # another scene every 2 s, 200 s of video
    Watcher(bitmar, None, [kept], per_minute=3).run(Fake(shots), threading.Event())
    times = [each.at for each in kept.events]
    assert len(times) == 12  # 4 minutes have begun
    assert all(later - sooner >= 60 for sooner, later in zip(times, times[3:], strict=False))


def test_photos_wait_for_their_turn(bitmar: Any, picture: Picture, kept: Any) -> None:
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    shots = [Shot(lambda: picture(1), path=f"{i}.jpg", time=1000.0 + i) for i in range(4)]
    Watcher(bitmar, None, [kept], per_minute=2).run(Fake(shots, waits=True), Stop())
    assert [each.path for each in kept.events] == [f"{i}.jpg" for i in range(4)] and waits == [58.0, 58.0]
    kept.events.clear(), waits.clear()
    # Those that have waited count from their turn: here all of them come at once, and time is what was waited for.
    now = 1000.0

    class Clock(Stop):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0
            return False

    times = []

    def shots_now() -> Any:
        for i in range(6):
            yield Shot(lambda: times.append(now) or picture(1), path=f"{i}.jpg", time=now)

    source = Fake([], waits=True)
    source.shots = lambda stop: shots_now()
    Watcher(bitmar, None, [kept], per_minute=2).run(source, Clock())
    assert times == [1000, 1000, 1060, 1060, 1120, 1120]


def test_photos_that_cannot_be_read_are_named_and_counted(bitmar: Any, picture: Picture, kept: Any) -> None:
    shots: list[Any] = [
        Shot(lambda: b"broken", path="a.jpg"),
        Shot(lambda: "gone.jpg", path="gone.jpg"),
        Notice("lost", "unplugged"),
        Shot(lambda: picture(1), path="b.jpg"),
        Shot(lambda: Image.new("RGB", (9, 9), "red"), path="red.jpg"),  # nothing to remember it by
    ]
    watcher = Watcher(bitmar, bitmar.memory(), [kept])
    watcher.run(Fake(shots, waits=True, retries=1), threading.Event())
    told = [(each.notice.kind, each.notice.path) for each in kept.events if isinstance(each, NoticeEvent)]
    assert told == [("skipped", "gone.jpg"), ("lost", None), ("skipped", "a.jpg")]
    seen = [(each.path, each.new) for each in kept.events if isinstance(each, CaptionEvent)]
    assert seen == [("b.jpg", True), ("red.jpg", None)]
    assert (watcher.captions, watcher.skipped) == (2, 2)


def test_names_that_are_no_utf_8_can_be_told(bitmar: Any, picture: Picture, kept: Any) -> None:
    shots = [
        Shot(lambda: picture(1), path="\udcff.jpg"),
        Shot(lambda: "\udcfe.jpg", path="\udcfe.jpg"),
    ]
    Watcher(bitmar, None, [kept]).run(Fake(shots, waits=True), threading.Event())
    assert len(kept.events) == 2
    for event in kept.events:
        event.line().encode()
        json.dumps(event.document(), ensure_ascii=False).encode()


def test_a_model_that_can_read_no_photo_is_an_error(
    make_model: Any, picture: Picture, kept: Any, tmp_path: Path
) -> None:
    blind = load(make_model(tmp_path / "blind.bitmar", tower=False), engine="numpy")
    with pytest.raises(ImageError, match="no vision tower"):
        Watcher(blind, None, [kept]).run(Fake([frame(picture(1), 0)]), threading.Event())


@pytest.mark.parametrize("fault", [MemoryBusyError("home.mem: in use"), "disk"])
def test_a_memory_that_cannot_be_written_ends_nothing(
    bitmar: Any, picture: Picture, kept: Any, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    session = bitmar.memory()

    def fails(*_: Any) -> None:
        if fault == "disk":
            raise MemoryFileError("home.mem: No space left on device") from OSError(28, "No space left on device")
        raise fault

    monkeypatch.setattr(session, "remember", fails)
    watcher = Watcher(bitmar, session, [kept])
    watcher.run(Fake([frame(picture(1), 0)]), threading.Event())
    told, seen = kept.events
    assert "not remembered: home.mem" in told.line() and seen.new and seen.remembered is None
    assert watcher.skipped == 1


def test_a_damaged_memory_ends_it(bitmar: Any, picture: Picture, kept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = bitmar.memory()
    monkeypatch.setattr(session, "remember", lambda *_: (_ for _ in ()).throw(MemoryFileError("damaged")))
    with pytest.raises(MemoryFileError, match="damaged"):
        Watcher(bitmar, session, [kept]).run(Fake([frame(picture(1), 0)]), threading.Event())


def test_another_program_may_write_between_two_events(bitmar: Any, picture: Picture, kept: Any, tmp_path: Path) -> None:
    path = tmp_path / "home.mem"
    with bitmar.memory(path) as session:
        watcher = Watcher(bitmar, session, [kept])
        watcher.run(Fake([frame(picture(1), 0)]), threading.Event())
        with bitmar.memory(path) as other:
            other.remember("the cat next door", picture(2))
        watcher.run(Fake([frame(picture(2), 9), frame(picture(2), 10)]), threading.Event())
    assert kept.events[-1].like.episode.text == "the cat next door"


def test_a_camera_must_see_more_of_the_same_than_a_photo() -> None:
    def found(score: float, confidence: float | None) -> Recalled:
        return Recalled(Episode(0, "a", 0.0), score, None, confidence)

    assert is_known(found(0.75, 0.999), fixed=False) and not is_known(found(0.75, 0.999), fixed=True)
    assert is_known(found(0.95, 0.999), fixed=True) and not is_known(found(0.95, 0.9), fixed=False)
    assert is_known(found(0.95, None), fixed=False) and not is_known(found(0.8, None), fixed=False)
