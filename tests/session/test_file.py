"""The `.mem` file: what is written is read, a cut at any moment leaves the old or the new, damage is never read."""

from __future__ import annotations

import errno
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.core.errors import MemoryFileError
from bitmar.session.file import MemoryFile
from bitmar.session.layout import PAGE, Layout, Shape
from bitmar.session.pages import RamPages

from ._files import MODEL, SMALL, contents, filled, opened, operations, vectors


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = opened(tmp_path / "a.mem")
    assert file.write(vectors(1), "a dög", photo="f" * 16, when=5.0) == 0
    assert file.write(vectors(2, image=False), "") == 1
    again = opened(tmp_path / "a.mem")
    assert contents(again) == contents(file)
    record = again.episode(0)
    assert (record.text, record.time, record.photo, record.cut, record.lost) == ("a dög", 5.0, "f" * 16, False, None)
    assert again.episode(1).photo is None
    assert again.has("image").tolist() == [True, False, False] and again.has("text").tolist() == [True, True, False]
    np.testing.assert_array_equal(again.column("value", again.live())[0], vectors(1).value)


@given(operations, st.integers(1, 3))
@settings(max_examples=60)
def test_it_behaves_as_a_dictionary_that_forgets_the_least_used(steps: list[tuple[str, int]], slots: int) -> None:
    shape, pages = SMALL._replace(slots=slots), RamPages()
    file, model, used = MemoryFile(pages, shape, MODEL), dict[int, str](), list[int]()
    for name, number in steps:
        if name == "write":
            free = [slot for slot in range(slots) if slot not in model]
            expected = free[0] if free else used[0]
            slot = file.write(vectors(number, shape), f"text {number}")
            lost = file.episode(slot).lost
            assert slot == expected and (lost.text if lost else None) == model.get(slot)
            model[slot] = f"text {number}"
            used = [*(x for x in used if x != slot), slot]
        elif name == "forget" and number in model:
            file.forget([number])
            del model[number]
            used.remove(number)
        elif name == "touch" and number in model:
            file.touch([number])
            used = [*(x for x in used if x != number), number]
        elif name == "reopen":
            file = MemoryFile(pages, shape, MODEL)
        assert {slot: file.episode(slot).text for slot in file.live().tolist()} == model
    usage = file.usage()
    assert [slot for slot in np.argsort(usage, kind="stable").tolist() if slot in model] == used
    assert not used or 0 < usage[used[-1]] <= 1


@given(st.text(max_size=700))
def test_a_text_is_cut_between_characters(text: str) -> None:
    file = MemoryFile(RamPages(), SMALL, MODEL)
    file.write(vectors(0), text.encode("utf-8", "replace").decode())
    record = file.episode(0)
    assert text.encode("utf-8", "replace").decode().startswith(record.text)
    assert len(record.text.encode()) <= 512 and record.cut == (len(text.encode("utf-8", "replace")) > 512)


def test_what_is_forgotten_is_wiped(tmp_path: Path) -> None:
    file = filled(tmp_path / "a.mem")
    file.forget([1])
    data = (tmp_path / "a.mem").read_bytes()
    assert b"episode 1" not in data and b"episode 2" in data
    assert vectors(1).value.astype("<f2").tobytes() not in data
    with pytest.raises(MemoryFileError, match="slot 1 holds nothing"):
        file.forget([1])


# Bad files.


@given(st.integers(0), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_an_error_or_has_no_effect(place: int, flip: int) -> None:
    pages = RamPages()
    file = MemoryFile(pages, SMALL, MODEL)
    for i in range(3):
        file.write(vectors(i), f"episode {i}")
    file.touch([1])
    former = contents(file)
    file.write(vectors(3), "episode 3")
    good = contents(file)
    pages.data[place % len(pages.data)] ^= flip
    try:
        found = contents(MemoryFile(pages, SMALL, MODEL))
    except MemoryFileError as error:
        assert "damaged" in str(error) or "no memory file" in str(error) or "later" in str(error)
        return
    assert found in (good, former)  # a changed newest entry is a write that was cut off


def test_a_damaged_slot_is_named_and_the_rest_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    file = filled(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"episode 1")] ^= 1
    path.write_bytes(data)
    with pytest.raises(MemoryFileError, match=r"record of slot 1 .*forget"):
        contents(opened(path))
    file = opened(path)
    file.forget([1])
    assert sorted(contents(file)) == [0, 2]


def test_a_page_of_entries_in_the_place_of_another_is_an_error() -> None:
    """Every entry of such a page has its checksum, and a checksum over them cannot tell them from the right ones."""
    shape = SMALL._replace(slots=150)
    pages = RamPages()
    file = MemoryFile(pages, shape, MODEL)
    older = []
    for number in range(330):
        file.write(vectors(number % 5, shape), f"text {number}")
        if number % 50 == 7:
            file.forget([int(file.live()[number % 40])])
        if number in range(60, 300, 30):
            older.append(bytes(pages.data))
    good = bytes(pages.data)
    first, last = file.layout.directory // PAGE, file.layout.uses // PAGE
    copies = [(here, good[there * PAGE :][:PAGE]) for here in range(first, last) for there in range(first, last)]
    copies += [(here, one[here * PAGE :][:PAGE]) for here in range(first, last) for one in older]
    for here, page in copies:
        data = good[: here * PAGE] + page + good[(here + 1) * PAGE :]
        if data != good:
            with pytest.raises(MemoryFileError, match="damaged"):
                MemoryFile(RamPages(data), shape, MODEL)


def test_a_damaged_directory(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    filled(path)
    data = bytearray(path.read_bytes())
    data[Layout(SMALL).directory + 3] ^= 1  # the entry of slot 0, which is not the newest
    path.write_bytes(data)
    with pytest.raises(MemoryFileError, match=r"1 episodes cannot be read.*--salvage"):
        opened(path)
    saved = opened(path, salvage=True)
    assert saved.damaged == 1 and sorted(contents(saved)) == [1, 2]


def test_files_that_are_no_memory_of_this_model(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    filled(path)
    whole = path.read_bytes()
    with pytest.raises(MemoryFileError, match=r"another model \(abababababab, this one is cdcd.*import"):
        opened(path, model="cd" * 32)
    with pytest.raises(MemoryFileError, match="damaged"):
        opened(path, SMALL._replace(value=6))
    cases = {
        "no memory file": [
            b"hello",
            whole[:7],
            b"BITMAR\0Ux",
            b"\xff" * 9000,
            bytes(100) + b"x" * 9000,
            bytes(1 << 20),
        ],
        "damaged": [whole[:-1], whole[:PAGE], whole[:100], whole + b"x", whole[:20] + b"\xff" + whole[21:]],
        "pip install --upgrade": [whole[:8] + struct.pack("<I", 99) + whole[12:]],
    }
    for message, files in cases.items():
        for data in files:
            path.write_bytes(data)
            with pytest.raises(MemoryFileError, match=message):
                opened(path)
            assert path.read_bytes() == data
    with pytest.raises(MemoryFileError, match="is a folder"):
        opened(tmp_path)
    with pytest.raises(MemoryFileError, match="no such folder"):
        opened(tmp_path / "none" / "a.mem").begin()


@pytest.mark.parametrize("data", [b"", bytes(10), bytes(PAGE + 5)])
def test_a_file_whose_making_was_cut_off_is_an_empty_memory(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mem"
    path.write_bytes(data)
    assert contents(opened(path)) == {} and path.read_bytes() == data
    assert len(contents(filled(path))) == 3


def test_what_cannot_be_an_episode() -> None:
    file = MemoryFile(RamPages(), SMALL, MODEL)
    with pytest.raises(MemoryFileError, match="5 finite numbers"):
        file.write(vectors(0)._replace(value=np.full(5, np.nan, np.float32)), "x")
    with pytest.raises(MemoryFileError, match="7 finite numbers"):
        file.write(vectors(0)._replace(image=np.zeros(6, np.float32)), "x")
    with pytest.raises(MemoryFileError, match="from 1 to"):
        MemoryFile(RamPages(), SMALL._replace(slots=0), MODEL)
    assert contents(file) == {}
    file.write(vectors(0), "here")
    for slot in (True, 0.5, "0", None, -1, 10**400, [0]):
        with pytest.raises(MemoryFileError, match="holds nothing"):
            file.forget([slot])  # type: ignore[list-item]
    file.forget([np.int64(0)])  # type: ignore[list-item]
    assert contents(file) == {}


# Several programs, bad disks.


def test_one_writer_and_many_readers(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    writer, reader = filled(path, 1), opened(path)
    writer.begin()
    with pytest.raises(MemoryFileError, match="another program is writing"):
        reader.write(vectors(7), "too")
    writer.write(vectors(8), "seen by others")
    reader.refresh()
    assert contents(reader) == contents(writer) and len(contents(reader)) == 2
    writer.close()
    reader.write(vectors(7), "now")
    assert len(contents(reader)) == 3


def test_a_reader_that_was_overtaken_reads_again(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    writer, reader = filled(path), opened(path)
    overtaken = iter([True, False, False])

    def read() -> list[str]:
        live = reader.live().tolist()
        if next(overtaken):
            writer.forget(live)
            writer.write(vectors(5), "later")
        return [reader.episode(slot).text for slot in live]

    assert reader.consistently(read) == ["later"]


@pytest.mark.parametrize(
    "code, message",
    [(errno.ENOSPC, "disk is full"), (errno.EIO, "does not answer, or was removed"), (errno.EROFS, "read-only")],
)
def test_faults_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str) -> None:
    path = tmp_path / "a.mem"
    file = filled(path)
    good = contents(file)

    def fault(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    for name in ("fsync", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fault)
            with pytest.raises(MemoryFileError, match=message):
                file.write(vectors(9), "lost")
        assert contents(opened(path)) in (good, contents(file))
        file.refresh()
        assert len(contents(file)) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mem")
    with pytest.raises(MemoryFileError, match="is a pipe"):
        opened(tmp_path / "pipe.mem")
    with pytest.raises(MemoryFileError, match="no file can be called so"):
        opened(tmp_path / "a\0.mem")


def test_a_full_disk_while_the_file_is_made(tmp_path: Path) -> None:
    (tmp_path / "a.mem").symlink_to("/dev/full")  # reads as zeros, takes nothing
    file = opened(tmp_path / "a.mem")
    with pytest.raises(MemoryFileError, match="disk is full"):
        file.begin()


def test_size_and_speed_of_512_episodes(tmp_path: Path) -> None:
    shape, path = Shape(512, 128, 192, 128), tmp_path / "a.mem"
    file = MemoryFile(RamPages(), shape, MODEL)
    for i in range(512):
        file.write(vectors(i, shape), "x" * 512)
    assert file.size <= 1_000_000
    path.write_bytes(file.pages.read(0, file.size))

    def seconds() -> float:
        start = time.perf_counter()
        opened(path, shape)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(20)) < 0.005
