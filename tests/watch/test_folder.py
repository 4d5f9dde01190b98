"""Photos are copied, moved, renamed and broken in a folder that is watched."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("watchdog", reason="watching a folder needs bitmar[watch]")

from bitmar.core.errors import SourceError
from bitmar.watch.folder import Folder, is_photo
from bitmar.watch.source import Notice, Shot

Until = Callable[[Callable[[], Any]], Any]


class Watched:
    """What a folder's thread has given so far."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.stop, self.given = folder, threading.Event(), list[Shot | Notice]()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for each in self.folder.shots(self.stop):
            self.given.append(each)

    @property
    def names(self) -> list[str]:
        return sorted(os.path.basename(str(each.path)) for each in self.given if isinstance(each, Shot))

    @property
    def notices(self) -> list[str]:
        return [each.kind for each in self.given if isinstance(each, Notice)]

    def end(self) -> None:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.folder.close()


@pytest.fixture(autouse=True)
def _hurry(hurry: Any) -> None:
    hurry("folder", SETTLE=0.05)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []
    (tmp_path / "in").mkdir()

    def start(**options: Any) -> Watched:
        made.append(Watched(Folder(str(tmp_path / "in"), **options)))
        return made[-1]

    yield start
    for each in made:
        each.end()


def test_each_new_photo_once(
    watch: Callable[..., Watched], tmp_path: Path, jpeg: Callable[..., bytes], until: Until
) -> None:
    folder = tmp_path / "in"
    (folder / "old.jpg").write_bytes(jpeg())
    watched = watch()
    assert watched.folder.found == 1
    (folder / "a.jpg").write_bytes(jpeg("red"))
    (folder / "notes.txt").write_text("no photo")
    (folder / ".b.jpg").write_bytes(jpeg())  # still being written, for some programs
    os.rename(folder / ".b.jpg", folder / "b.jpg")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "c.JPG").write_bytes(jpeg("blue"))
    os.rename(tmp_path / "new", folder / "new")  # a folder with a photo in it
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "d.jpg").write_bytes(jpeg())
    until(lambda: watched.names == ["a.jpg", "b.jpg", "c.JPG"])
    os.rename(folder / "a.jpg", folder / "renamed.jpg")
    os.utime(folder / "old.jpg", ns=(1, os.stat(folder / "old.jpg").st_mtime_ns))  # read, not changed
    (folder / "b.jpg").write_bytes(jpeg("white", (50, 50)))  # another photo under an old name
    until(lambda: watched.names == ["a.jpg", "b.jpg", "b.jpg", "c.JPG"])
    (folder / "last.jpg").write_bytes(jpeg())
    until(lambda: "last.jpg" in watched.names)
    assert watched.names == ["a.jpg", "b.jpg", "b.jpg", "c.JPG", "last.jpg"] and not watched.notices


def test_photos_that_are_there(watch: Callable[..., Watched], tmp_path: Path, jpeg: Any, until: Until) -> None:
    for i in range(5):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(jpeg())
    watched = watch(existing=True)
    until(lambda: watched.names == [f"{i}.jpg" for i in range(5)])


def test_a_photo_that_arrives_slowly_comes_when_it_is_whole(
    watch: Callable[..., Watched], tmp_path: Path, jpeg: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitmar.watch.folder.SETTLE", 0.5)
    watched, data = watch(), jpeg()
    with (tmp_path / "in" / "slow.jpg").open("wb", buffering=0) as file:
        for place in range(0, len(data), len(data) // 8):
            file.write(data[place : place + len(data) // 8])
            assert not watched.stop.wait(0.1) and not watched.names
    until(lambda: watched.names == ["slow.jpg"])


def test_what_no_event_has_told_is_found(
    watch: Callable[..., Watched], tmp_path: Path, jpeg: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitmar.watch.folder.SWEEP", 0.1)
    monkeypatch.setattr("bitmar.watch.folder._Handler.on_any_event", lambda *_: None)  # a network drive
    watched = watch()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg())
    until(lambda: watched.names == ["a.jpg"])


def test_a_folder_that_goes_and_returns(watch: Callable[..., Watched], tmp_path: Path, jpeg: Any, until: Until) -> None:
    watched = watch()
    shutil.rmtree(tmp_path / "in")
    until(lambda: watched.notices == ["lost"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg())
    until(lambda: watched.names == ["a.jpg"])
    assert watched.notices == ["lost", "back"]
    (tmp_path / "in" / "b.jpg").write_bytes(jpeg())
    until(lambda: watched.names == ["a.jpg", "b.jpg"])


def test_without_the_systems_events_it_looks_again_and_again(
    watch: Callable[..., Watched], tmp_path: Path, jpeg: Any, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    class UsedUp:
        def schedule(self, *_: Any, **__: Any) -> None: ...

        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("bitmar.watch.folder.Observer", UsedUp)
    watched = watch()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg())
    until(lambda: watched.names == ["a.jpg"])
    monkeypatch.setattr("bitmar.watch.folder.PollingObserver", UsedUp)
    with pytest.raises(SourceError, match="limit reached"):
        Folder(str(tmp_path / "in"))


def test_a_photo_that_cannot_be_read_comes_a_few_times(
    watch: Callable[..., Watched], tmp_path: Path, until: Until
) -> None:
    watched = watch()
    (tmp_path / "in" / "a.jpg").write_bytes(b"broken")
    for count in (1, 2, 3, 4):
        until(lambda count=count: len(watched.names) == count)
        shot = watched.given[-1]
        assert isinstance(shot, Shot) and watched.folder.retry(shot) == (count < 4)


def test_what_is_a_photo() -> None:
    folder = Path("/tmp/.photos")
    assert is_photo("/tmp/.photos/a.JPEG", folder) and is_photo("/tmp/.photos/b/a.heic", folder)
    assert not is_photo("/tmp/.photos/a.txt", folder) and not is_photo("/tmp/.photos/.b/a.jpg", folder)
