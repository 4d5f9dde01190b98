"""The `.mem` file: a power cut or a kill at any moment leaves the old contents or the new."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.session.file import MemoryFile
from bitmar.session.layout import Shape
from bitmar.session.pages import FilePages, RamPages

from ._files import MODEL, SMALL, Recorder, contents, opened, vectors


def changes(slots: int) -> list[tuple[str, Callable[[MemoryFile], object]]]:
    shape = SMALL._replace(slots=slots)
    return [
        ("the first", lambda file: file.write(vectors(1, shape), "one")),
        ("another", lambda file: file.write(vectors(2, shape), "two")),
        ("a third", lambda file: file.write(vectors(3, shape), "three")),
        ("a recall", lambda file: file.touch([0])),
        ("over the least used", lambda file: file.write(vectors(4, shape), "four")),
        ("forgetting", lambda file: file.forget([0])),
        ("into the gap", lambda file: file.write(vectors(5, shape), "five")),
    ]


@given(st.data(), st.sampled_from([1, 3]), st.sampled_from([1, 3, 200]))
@settings(max_examples=200)
def test_a_power_cut_leaves_the_old_or_the_new(data: st.DataObject, slots: int, opened_for: int) -> None:
    """Writes since the last sync arrive in any order, each whole, not at all, or in some of its sectors. Whoever opens
    the file again may not know how many slots it has.
    """
    shape, pages = SMALL._replace(slots=slots), Recorder()
    file = MemoryFile(pages, shape, MODEL)
    steps = changes(slots)
    place = data.draw(st.integers(0, len(steps) - 1))
    for _, change in steps[:place]:
        change(file)
    before, old = bytes(pages.data), contents(file)
    pages.log.clear()
    steps[place][1](file)
    new = contents(file)
    cut = data.draw(st.integers(0, len(pages.log)))
    disk = RamPages()
    disk.data = bytearray(before)
    last_sync = max((i for i, entry in enumerate(pages.log[:cut]) if entry is None), default=0)
    for i, entry in enumerate(pages.log[:cut]):
        if entry is None:
            continue
        offset, written = entry
        for start in range(0, len(written), 512):
            if i < last_sync or data.draw(st.booleans()):
                disk.write(offset + start, written[start : start + 512])
    found = MemoryFile(disk, SMALL._replace(slots=opened_for), MODEL)
    assert contents(found) in (old, new)
    if cut == len(pages.log):
        assert contents(found) == new
    found.write(vectors(9, shape), "it goes on")  # and the file works as ever
    assert "it goes on" in [text for text, *_ in contents(MemoryFile(disk, shape, MODEL)).values()]
    assert place == 0 or found.shape == shape


class Fatal(FilePages):
    """Kills its process at a given step, a write being half done."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path)
        self.left = steps

    def write(self, offset: int, data: bytes) -> None:
        self._step(lambda: super(Fatal, self).write(offset, data[: len(data) // 2]))
        super().write(offset, data)

    def sync(self) -> None:
        self._step(lambda: None)
        super().sync()

    def _step(self, half: Callable[[], None]) -> None:
        self.left -= 1
        if self.left < 0:
            half()
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(path: Path, steps: int, shape: Shape) -> tuple[int, bool]:
    """How many changes were done before a process was killed at step `steps`, and whether it was killed at all."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            file = MemoryFile(Fatal(path, steps), shape, MODEL)
            for _, change in changes(3):
                change(file)
                os.write(writer, b".")
        finally:
            os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as progress:
        return len(progress.read()), os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork and no kill -9")
@pytest.mark.parametrize("slots", [3, 100])
def test_kill_9_at_every_step(tmp_path: Path, slots: int) -> None:
    """Also of a file with more slots than those who open it afterwards know of."""
    expected = [dict[int, object]()]
    shape = SMALL._replace(slots=slots)
    whole = MemoryFile(RamPages(), shape, MODEL)
    for _, change in changes(3):
        change(whole)
        expected.append(contents(whole))
    for step in range(400):
        path = tmp_path / f"{step}.mem"
        done, killed = run_and_die(path, step, shape)
        if not killed:
            assert done == len(changes(3)) and step > 40
            return
        assert contents(opened(path)) in expected[done : done + 2], f"killed at step {step}, {done} changes were done"
        again = opened(path)
        again.write(vectors(9), "it goes on")  # the lock of the dead is free
        again.close()
        assert "it goes on" in [text for text, *_ in contents(opened(path)).values()]
    pytest.fail("the child never came to its end")
