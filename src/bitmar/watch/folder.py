"""A folder and all below it: every photo that comes to lie there, once it is whole.

The system tells what happens (inotify and its kin, by watchdog). It tells nothing of network drives, and too much at
once is lost, so now and then the folder is read through as well.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Event
from typing import Any

from watchdog.events import DirCreatedEvent, DirMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.polling import PollingObserver

from bitmar.core.errors import SourceError
from bitmar.core.formats import SUFFIXES
from bitmar.watch.source import Notice, Shot

SETTLE = 0.7  # seconds without a change after which a file is taken to be whole
SWEEP = 30.0  # seconds between two readings of the folder, at least
_TRIES = 3  # of a photo that cannot be read
_BEAT = 0.2  # seconds after which a wait looks whether it is to end
_QUIET = ("opened", "closed_no_write", "deleted")  # events that bring no photo

Stamp = tuple[int, int]  # time of change, bytes


class Folder:
    """Gives a shot for each new or changed photo below a folder, one after the other; none is left out.

    Hidden files and folders are. A folder that goes away (a disk is taken out) is waited for. existing: begin with the
    photos that are there. Raises SourceError where it cannot be watched.
    """

    waits = endless = True

    def __init__(self, folder: str, *, existing: bool = False) -> None:
        self.folder, self.name = Path(folder), folder
        self._known: dict[str, Stamp] = {}
        self._due: dict[str, float] = {}  # photos that may be whole at this time
        self._seen: dict[str, Stamp] = {}  # what those looked like
        self._tries: dict[str, int] = {}
        self._changed = Condition()
        self._observer: Any = None
        self._watch()
        there = dict(sorted(_photos(self.folder)))
        self.found = len(there)
        if existing:
            self._due.update(dict.fromkeys(there, 0.0))
            self._seen.update(there)
        else:
            self._known.update(there)

    def _watch(self) -> None:
        cause = ""
        # Where the system has no watches, or none left, by looking again and again.
        for kind in (Observer, PollingObserver):
            observer = kind()
            try:
                observer.schedule(_Handler(self), str(self.folder), recursive=True)
                observer.start()
            except OSError as error:
                cause = error.strerror or str(error)
                continue
            self._observer = observer
            return
        raise SourceError(f"{self.name}: cannot be watched: {cause}")

    def tell(self, path: str, before: str | None = None) -> None:
        """Something has happened to this file, which was called `before`; from any thread."""
        with self._changed:
            if before in self._known:
                self._known[path] = self._known.pop(before)  # a photo that was renamed is none that is new
            self._due[path] = time.monotonic() + SETTLE
            self._changed.notify()

    def shots(self, stop: Event) -> Iterator[Shot | Notice]:
        """Photos as they come. Raises nothing: what cannot be read is the reader's to tell."""
        sweep = time.monotonic() + SWEEP
        while not stop.is_set():
            if not self.folder.is_dir():
                yield from self._wait_for_it(stop)
            if (path := self._next()) is not None:
                yield Shot(lambda path=path: path, path=path)  # type: ignore[misc]
            elif (now := time.monotonic()) >= sweep:
                self._sweep()
                took = time.monotonic() - now
                sweep = now + max(SWEEP, 100 * took)  # never more than a hundredth of the time
            else:
                self._rest(sweep)

    def _next(self) -> str | None:
        """A photo that is whole and not yet known."""
        with self._changed:
            while self._due:
                path = min(self._due, key=self._due.__getitem__)
                if self._due[path] > time.monotonic():
                    return None
                del self._due[path]
                before, stamp = self._seen.pop(path, None), _stamp(path)
                if stamp is None:
                    self._known.pop(path, None)
                elif stamp != before:  # it may still be arriving
                    self._seen[path], self._due[path] = stamp, time.monotonic() + SETTLE
                elif stamp != self._known.get(path):
                    self._known[path] = stamp
                    return path
            return None

    def _rest(self, sweep: float) -> None:
        with self._changed:
            until = min([sweep, *self._due.values()]) - time.monotonic()
            self._changed.wait(min(max(until, 0.001), _BEAT))

    def _sweep(self) -> None:
        """Read the folder for what no event has told."""
        there = dict(_photos(self.folder))
        with self._changed:
            self._known = {path: stamp for path, stamp in self._known.items() if path in there}
            self._tries = {path: tries for path, tries in self._tries.items() if path in self._due}
            for path, stamp in there.items():
                if stamp != self._known.get(path) and path not in self._due:
                    self._seen[path], self._due[path] = stamp, time.monotonic() + SETTLE

    def _wait_for_it(self, stop: Event) -> Iterator[Notice]:
        yield Notice("lost", "the folder is gone; it is waited for")
        self._end()
        gone = time.monotonic()
        while self._observer is None:
            if stop.wait(_BEAT):
                return
            if self.folder.is_dir():
                with contextlib.suppress(SourceError):  # it is gone again
                    self._watch()
        self._sweep()
        yield Notice("back", f"after {time.monotonic() - gone:.0f} s")

    def retry(self, shot: Shot) -> bool:
        """A few times, later and later."""
        path = str(shot.path)
        with self._changed:
            tries = self._tries.get(path, 0) + 1
            if tries > _TRIES or (stamp := _stamp(path)) is None:
                return False
            self._known.pop(path, None)
            self._tries[path], self._seen[path] = tries, stamp
            self._due[path] = time.monotonic() + SETTLE * 2 ** (tries - 1)
            return True

    def close(self) -> None:
        """End the observer's thread."""
        self._end()

    def _end(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(5)
            self._observer = None


class _Handler(FileSystemEventHandler):
    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in _QUIET:
            return
        path = os.path.normpath(os.fsdecode(event.dest_path or event.src_path))
        if isinstance(event, (DirCreatedEvent, DirMovedEvent)):  # with photos in it, maybe
            for each, _ in _photos(Path(path)):
                if is_photo(each, self.folder.folder):
                    self.folder.tell(each)
        elif not event.is_directory and is_photo(path, self.folder.folder):
            self.folder.tell(path, os.path.normpath(os.fsdecode(event.src_path)) if event.dest_path else None)


def is_photo(path: str, folder: Path) -> bool:
    """Whether a file's name is that of a photo, and no part of it below the folder is hidden."""
    parts = Path(os.path.relpath(path, folder)).parts
    return Path(path).suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in parts)


def _photos(folder: Path) -> Iterator[tuple[str, Stamp]]:
    for path, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for file in files:
            whole = os.path.normpath(os.path.join(path, file))
            if is_photo(whole, folder) and (stamp := _stamp(whole)):
                yield whole, stamp


def _stamp(path: str) -> Stamp | None:
    """None for a file that is gone or is none."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return (about.st_mtime_ns, about.st_size) if stat.S_ISREG(about.st_mode) else None
