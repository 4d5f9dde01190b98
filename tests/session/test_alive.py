"""The `.mem` file remains the truth while it is open: taken away, replaced, forked, written by others, of version 1."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.core.errors import MemoryBusyError, MemoryFileError
from bitmar.session.file import MemoryFile
from bitmar.session.layout import ENTRY, PAGE, USE, Layout, Seal, Shape, entry_checksum, use_checksum
from bitmar.session.pages import FilePages, RamPages

from ._files import MODEL, SMALL, contents, filled, opened, vectors

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


# Taken away while it is open.


def test_after_close_and_deletion_a_whole_new_file(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    file = filled(path)
    path.unlink()
    file.write(vectors(7), "anew")
    file.close()
    assert [text for text, *_ in contents(opened(path)).values()] == ["anew"]


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "folder"])
def test_a_writer_never_says_that_it_wrote_into_nothing(tmp_path: Path, how: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path, other = home / "a.mem", tmp_path / "b.mem"
    filled(other, 1)
    file = opened(path)
    file.write(vectors(0), "before")
    if how == "deleted":
        path.unlink()
    elif how == "moved":
        path.rename(tmp_path / "c.mem")
    elif how == "replaced":
        other.rename(path)
    else:
        home.rename(tmp_path / "gone")
    with pytest.raises(MemoryFileError, match="deleted, moved or replaced"):
        file.write(vectors(7), "after")
    if how == "folder":
        with pytest.raises(MemoryFileError, match="no such folder"):
            file.write(vectors(7), "after")
        return
    file.write(vectors(7), "after")  # and from then on it goes on with what is there
    expected = ["episode 0", "after"] if how == "replaced" else ["after"]
    assert [text for text, *_ in contents(opened(path)).values()] == expected


def test_a_writer_that_is_robbed_in_the_middle_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    file = opened(path)
    file.begin()
    sync = file.pages.sync

    def robbed() -> None:
        sync()
        path.unlink(missing_ok=True)

    file.pages.sync = robbed  # type: ignore[method-assign]
    with pytest.raises(MemoryFileError, match="deleted, moved or replaced"):
        file.write(vectors(0), "lost")


def test_a_reader_sees_what_the_name_means_now(tmp_path: Path) -> None:
    path, other = tmp_path / "a.mem", tmp_path / "b.mem"
    filled(path)
    reader = opened(path)
    filled(other, 1)
    other.rename(path)
    reader.refresh()
    assert len(contents(reader)) == 1
    path.unlink()
    reader.refresh()
    assert contents(reader) == {}


def test_bytes_copied_over_the_open_file_are_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "a.mem", tmp_path / "b.mem"
    filled(other, 1)
    file = opened(path)
    file.write(vectors(0), "mine")
    path.write_bytes(other.read_bytes())  # the same file, as `cp` does
    with pytest.raises(MemoryFileError, match="another program has changed it"):
        file.write(vectors(1), "more")
    file.write(vectors(1), "more")
    assert [text for text, *_ in contents(opened(path)).values()] == ["episode 0", "more"]


def test_another_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    file = opened(Path("a.mem"))
    file.write(vectors(0), "here")
    file.close()
    monkeypatch.chdir("elsewhere")
    file.write(vectors(1), "and there")
    assert len(contents(opened(tmp_path / "a.mem"))) == 2 and not list(Path().iterdir())


def in_a_fork(work) -> int:  # type: ignore[no-untyped-def]
    """The exit status of a child: 0 if all is well, 7 for a MemoryFileError."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        except MemoryFileError:
            status = 7
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@FORKS
def test_the_fork_of_a_writer_needs_a_lock_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    file = opened(path)
    file.write(vectors(0), "parent")
    assert in_a_fork(lambda: file.write(vectors(1), "child")) == 7
    file.write(vectors(2), "parent again")
    assert in_a_fork(lambda: contents(file) and file.refresh()) == 0
    file.close()
    assert in_a_fork(lambda: file.write(vectors(1), "child")) == 0
    file.refresh()
    assert [text for text, *_ in contents(file).values()] == ["parent", "parent again", "child"]


# Locks and readers.


def test_four_programs_that_wait_lose_nothing(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.mem", SMALL._replace(slots=32)
    code = (
        "import sys; sys.path[:0] = sys.argv[2:4]\n"
        "import numpy as np\n"
        "from bitmar.session.file import MemoryFile\n"
        "from bitmar.session.layout import Shape, Vectors\n"
        "from bitmar.session.pages import FilePages\n"
        "v = Vectors(*(np.ones(n, np.float32) for n in (5, 7, 5)))\n"
        "for i in range(8):\n"
        f"    file = MemoryFile(FilePages(sys.argv[1], wait=60), Shape(32, 5, 7, 5), {MODEL!r})\n"
        "    file.write(v, 'x'); file.close()\n"
    )
    source = str(Path(sys.modules["bitmar"].__file__ or "").parents[1])
    command = [sys.executable, "-c", code, str(path), source, source]
    for child in [subprocess.Popen(command) for _ in range(4)]:
        assert child.wait() == 0
    assert len(contents(opened(path, shape))) == 32


def test_waiting_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    writer = opened(path)
    writer.begin()
    waiting = MemoryFile(FilePages(path, wait=0.1), SMALL, MODEL)
    with pytest.raises(MemoryBusyError, match=r"--wait SECONDS"):
        waiting.begin()
    patient = MemoryFile(FilePages(path, wait=60), SMALL, MODEL)
    threading.Timer(0.1, writer.close).start()
    patient.write(vectors(0), "at last")


class Torn(RamPages):
    """Gives half of an older state for some reads, as beside a busy writer."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.older, self.bad = bytes(data), 0

    def read(self, offset: int, length: int) -> bytes:
        good = super().read(offset, length)
        if offset or not self.bad:
            return good
        self.bad -= 1
        half = Layout(SMALL).directory + 32 + 40 * self.bad
        return good[:half] + self.older[half : len(good)]


def test_a_reader_beside_a_busy_writer_sees_no_damage() -> None:
    pages = RamPages()
    writer = MemoryFile(pages, SMALL, MODEL)
    for i in range(3):
        writer.write(vectors(i), f"episode {i}")
    torn = Torn(bytes(pages.data))
    reader = MemoryFile(torn, SMALL, MODEL)
    for i in range(6):
        writer.write(vectors(i), f"later {i}")
    torn.data, torn.bad = pages.data, 5
    reader.refresh()
    assert contents(reader) == contents(writer)


# Lost and stale pages.


def directory_of(count: int, slots: int = 130) -> tuple[RamPages, Shape]:
    shape, pages = SMALL._replace(slots=slots), RamPages()
    file = MemoryFile(pages, shape, MODEL)
    with file.at_once():
        for i in range(count):
            file.write(vectors(i, shape), f"episode {i}")
    file.write(vectors(0, shape), "the last")
    return pages, shape


def loses_nothing_in_silence(pages: RamPages, shape: Shape, before: dict[int, object]) -> bool:
    """True for an error; False if all is still there. Anything else fails."""
    try:
        found = contents(MemoryFile(pages, shape, MODEL))
    except MemoryFileError as error:
        assert "damaged" in str(error)
        return True
    assert found == before
    return False


@given(st.integers(0, 140), st.integers(0, 2), st.booleans())
def test_a_lost_page_of_the_directory_is_an_error(count: int, number: int, ones: bool) -> None:
    pages, shape = directory_of(count)
    before = contents(MemoryFile(pages, shape, MODEL))
    start = Layout(shape).directory + number * PAGE
    held = any(pages.data[start : start + PAGE])
    pages.data[start : start + PAGE] = bytes([255 * ones]) * PAGE
    assert loses_nothing_in_silence(pages, shape, before) == (held or ones)


@given(st.integers(0, 140), st.integers(1, 140), st.integers(0, 2), st.booleans())
def test_an_older_page_of_the_directory_is_an_error(count: int, more: int, number: int, forget: bool) -> None:
    """Also where as many episodes are there as before, and the newest of them stands on another page."""
    pages, shape = directory_of(count)
    old = bytes(pages.data)
    file = MemoryFile(pages, shape, MODEL)
    with file.at_once():
        for i in range(more):
            file.write(vectors(i, shape), f"later {i}")
    if forget:
        file.forget([0])
    before = contents(file)
    start = Layout(shape).directory + number * PAGE
    changed = old[start : start + PAGE] != pages.data[start : start + PAGE]
    pages.data[start : start + PAGE] = old[start : start + PAGE]
    assert loses_nothing_in_silence(pages, shape, before) == changed


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_lost_seal_loses_nothing(count: int, number: int) -> None:
    pages = RamPages()
    file = MemoryFile(pages, SMALL, MODEL)
    for i in range(count):
        file.write(vectors(i), f"episode {i}")
    start = Layout(SMALL).seals[number]
    pages.data[start : start + PAGE] = bytes(PAGE)
    again = MemoryFile(pages, SMALL, MODEL)
    assert contents(again) == contents(file)
    again.write(vectors(9), "it goes on")
    assert "it goes on" in [text for text, *_ in contents(MemoryFile(pages, SMALL, MODEL)).values()]


def test_what_a_lost_page_leaves_can_be_saved() -> None:
    pages, shape = directory_of(100)
    start = Layout(shape).directory
    pages.data[start : start + PAGE] = bytes(PAGE)
    saved = MemoryFile(pages, shape, MODEL, salvage=True)
    assert saved.damaged == 64 and len(contents(saved)) == 101 - 64
    with pytest.raises(MemoryFileError, match="damaged"):
        saved.write(vectors(0, shape), "no")


def test_numbers_beyond_their_end() -> None:
    pages = RamPages()
    file = MemoryFile(pages, SMALL, MODEL)
    file.write(vectors(0), "one")
    layout = Layout(SMALL)
    number = 2**32 - 1
    pages.data[layout.uses : layout.uses + USE.size] = USE.pack(number, use_checksum(0, number))
    full = MemoryFile(pages, SMALL, MODEL)
    assert len(contents(full)) == 1
    for write in (lambda: full.write(vectors(1), "two"), lambda: full.touch([0]), lambda: full.forget([0])):
        with pytest.raises(MemoryFileError, match="numbers are used up"):
            write()
    entry = np.frombuffer(bytes(pages.data[layout.directory :][: ENTRY.itemsize]), ENTRY).copy()
    entry["sequence"] = 2**32
    entry["checksum"] = entry_checksum(entry[0])
    pages.data[layout.directory : layout.directory + ENTRY.itemsize] = entry.tobytes()
    seal = Seal.of(np.concatenate((entry, np.zeros(3, ENTRY))), 0, entry[0]).pack()
    for start in layout.seals:
        pages.data[start : start + len(seal)] = seal
    with pytest.raises(MemoryFileError, match="damaged"):
        MemoryFile(pages, SMALL, MODEL)


# All at once.


def test_a_block_that_fails_has_written_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    file = filled(path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), file.at_once():
        file.write(vectors(7), "never")
        raise ZeroDivisionError
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    file.refresh()
    assert "never" not in [text for text, *_ in contents(file).values()]
    with file.at_once():
        file.write(vectors(7), "now")
    file.write(vectors(8), "and on")
    assert [text for text, *_ in contents(opened(path)).values()] == ["now", "and on", "episode 2"]
