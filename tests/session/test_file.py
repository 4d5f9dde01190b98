"""The `.mem` file: what is written is read, a cut at any moment leaves the old or the new, damage is never read."""

from __future__ import annotations

import errno
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.core.errors import MemoryFileError
from bitmar.session.file import MemoryFile
from bitmar.session.keep import keep
from bitmar.session.layout import ENTRY, PAGE, Layout, Seal, Shape, Vectors
from bitmar.session.pages import FilePages, RamPages

MODEL = "ab" * 32
SMALL = Shape(3, 5, 7, 5)


def vectors(seed: int, shape: Shape = SMALL, *, image: bool = True, text: bool = True) -> Vectors:
    """Random, and exact in float16."""
    rng = np.random.default_rng(seed)
    value, seen, said = (rng.integers(-99, 99, width).astype(np.float32) for width in shape[1:])
    return Vectors(value, seen if image else None, said if text else None)


def contents(file: MemoryFile) -> dict[int, tuple[str, list[float], list[float]]]:
    """All that can be read, every checksum checked."""
    live = file.live()
    columns = [file.column(name, live).tolist() for name in ("value", "image", "text")]
    return {int(slot): (file.episode(int(slot)).text, *rest) for slot, *rest in zip(live, *columns, strict=True)}


def opened(path: Path, shape: Shape = SMALL, model: str = MODEL, *, salvage: bool = False) -> MemoryFile:
    return MemoryFile(FilePages(path), shape, model, salvage=salvage)


def filled(path: Path, count: int = 3, shape: Shape = SMALL) -> MemoryFile:
    file = opened(path, shape)
    for i in range(count):
        file.write(vectors(i, shape), f"episode {i}", photo=f"{i:016x}")
    file.close()
    return file


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


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 99)),
        st.tuples(st.just("forget"), st.integers(0, 2)),
        st.tuples(st.just("touch"), st.integers(0, 2)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


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


# Power cuts.


class Recorder(RamPages):
    """Keeps every write and sync, to be replayed as far as a power cut would let it come."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[int, bytes] | None] = []  # None is a sync

    def write(self, offset: int, data: bytes) -> None:
        self.log.append((offset, data))
        super().write(offset, data)

    def sync(self) -> None:
        self.log.append(None)


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
    with pytest.raises(MemoryFileError, match="is a pipe or a device"):
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


# Many slots.


def test_a_file_keeps_its_number_of_slots(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    filled(path, 5, SMALL._replace(slots=5))
    for slots in (1, 3, 9):
        file = opened(path, SMALL._replace(slots=slots))
        assert file.shape.slots == 5 and len(contents(file)) == 5
        file.write(vectors(slots), "over the least used")
        assert file.shape.slots == 5 and len(contents(file)) == 5
        file.close()
    fewer = MemoryFile(FilePages(path), SMALL, MODEL, grow=True)
    fewer.begin()
    assert fewer.shape.slots == 5


@given(operations, st.integers(1, 3), st.lists(st.integers(1, 200), max_size=3))
@settings(max_examples=40)
def test_a_file_grows_and_keeps_all(steps: list[tuple[str, int]], slots: int, sizes: list[int]) -> None:
    shape, pages = SMALL._replace(slots=slots), RamPages()
    file = MemoryFile(pages, shape, MODEL)
    file.begin()
    for name, number in steps:
        if name == "write":
            file.write(vectors(number, shape), f"text {number}")
        elif number in file.live():
            file.forget([number]) if name == "forget" else file.touch([number])
    for size in sizes:
        before, usage = contents(file), file.usage()[file.live()].tolist()
        file = MemoryFile(pages, SMALL._replace(slots=size), MODEL, grow=True)
        assert contents(file) == before  # it grows with the next write
        file.begin()
        slots = max(slots, size)
        assert file.shape.slots == slots and file.size == len(pages.data)
        assert contents(file) == before and file.usage()[file.live()].tolist() == usage
        file.write(vectors(7), "one more")
        assert len(contents(file)) == min(len(before) + 1, slots)
    assert contents(MemoryFile(pages, SMALL, MODEL)) == contents(file)


def test_a_reader_sees_that_a_file_has_grown(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    filled(path)
    reader = opened(path)
    writer = MemoryFile(FilePages(path), SMALL._replace(slots=150), MODEL, grow=True)
    for i in range(100):
        writer.write(vectors(i), f"more {i}")
    reader.refresh()
    assert reader.shape.slots == 150 and contents(reader) == contents(writer) and len(contents(reader)) == 103


@given(st.integers(0, 2), st.lists(st.tuples(st.booleans(), st.integers(0, 2999)), max_size=20))
@settings(max_examples=25)
def test_seals_of_many_slots_know_the_whole_directory(start: int, steps: list[tuple[bool, int]]) -> None:
    """They are reckoned from the entry that changes; here from all entries."""
    shape, pages = SMALL._replace(slots=3000), RamPages()
    file = MemoryFile(pages, shape, MODEL)
    for i in range(start):
        file.write(vectors(i), f"episode {i}")
    for forget, slot in steps:
        if not forget:
            file.write(vectors(slot), f"in {slot}", slot=slot)
        elif slot in file.live():
            file.forget([slot])
    if not len(file.live()):
        return
    layout = Layout(shape)
    seal = Seal.read(bytes(pages.data), layout.seals[-1])
    entries = np.frombuffer(pages.read(layout.directory, ENTRY.itemsize * layout.cells), ENTRY)
    assert seal is not None and seal == Seal.of(entries, seal.cell, entries[seal.cell])
    assert contents(MemoryFile(pages, SMALL, MODEL)) == contents(file)


def test_a_reader_of_many_slots_sees_writes_and_recalls(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.mem", SMALL._replace(slots=3000)
    writer = opened(path, shape)
    for slot in (0, 2500, 2999):
        writer.write(vectors(slot), f"episode {slot}", slot=slot)
    reader = opened(path)
    assert reader.usage()[2999] == 1
    writer.touch([2500])
    reader.refresh()
    assert reader.usage()[2500] == 1 > reader.usage()[2999]
    writer.write(vectors(1), "corrected", slot=2999)
    reader.refresh()
    assert contents(reader) == contents(writer)


def test_what_another_program_writes_into_many_slots_is_noticed(tmp_path: Path) -> None:
    path, shape = tmp_path / "a.mem", SMALL._replace(slots=3000)
    writer = opened(path, shape)
    writer.write(vectors(0), "mine", slot=2900)
    other = tmp_path / "b.mem"
    with MemoryFile(FilePages(other), shape, MODEL).at_once():
        pass
    path.write_bytes(other.read_bytes())
    with pytest.raises(MemoryFileError, match="another program has changed it"):
        writer.write(vectors(1), "more")


@pytest.mark.parametrize("number", [0, 20, 46])
def test_a_lost_page_among_many_is_an_error(number: int) -> None:
    shape, pages = SMALL._replace(slots=3000), RamPages()
    file = MemoryFile(pages, shape, MODEL)
    with file.at_once():
        for slot in range(0, 3000, 50):
            file.write(vectors(slot), "x", slot=slot)
    entry = pages.data.index(file._entries[file._cell_of[150]].tobytes())
    start = Layout(shape).directory
    pages.data[start + number * PAGE : start + (number + 1) * PAGE] = bytes(PAGE)
    lost = start + number * PAGE <= entry < start + (number + 1) * PAGE
    if lost or number == 0:
        with pytest.raises(MemoryFileError, match="damaged"):
            MemoryFile(pages, SMALL, MODEL)
    else:
        assert len(contents(MemoryFile(pages, SMALL, MODEL))) == 60


class Counter(RamPages):
    """How many bytes are read and written."""

    read_bytes = written_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        data = super().read(offset, length)
        self.read_bytes += len(data)
        return data

    def write(self, offset: int, data: bytes) -> None:
        self.written_bytes += len(data)
        super().write(offset, data)


def test_a_write_costs_the_same_for_any_number_of_slots() -> None:
    costs = set()
    for slots in (2_000, 20_000):
        pages = Counter()
        file = MemoryFile(pages, SMALL._replace(slots=slots), MODEL)
        file.begin()
        pages.read_bytes = pages.written_bytes = 0
        keep(file, vectors(0), "x", photo="f" * 16)
        keep(file, vectors(1), "y", photo="f" * 16)
        file.forget([0])
        costs.add((pages.read_bytes, pages.written_bytes))
    assert len(costs) == 1


def test_a_column_reads_what_has_changed_and_nothing_else() -> None:
    pages, shape = Counter(), SMALL._replace(slots=500)
    file = MemoryFile(pages, shape, MODEL)
    with file.at_once():
        for i in range(400):
            file.write(vectors(i, text=i % 2 == 0), f"text {i}")
    column = file.resident("text").follow()
    file.write(vectors(1000), "the last", slot=3)
    file.forget([2, 399])
    file.write(vectors(1001, text=False), "no key", slot=4)
    pages.read_bytes = 0
    assert file.resident("text").follow() is column
    assert 0 < pages.read_bytes < PAGE
    live = np.flatnonzero(file.has("text"))
    np.testing.assert_array_equal(column.rows[live], file.column("text", live))
    assert not np.delete(column.rows, live, axis=0).any()
    assert [column.texts[slot] for slot in live.tolist()] == file.texts(live) and column.texts[3] == "the last"


def test_only_the_pages_in_question_are_touched() -> None:
    shape, pages = Shape(512, 128, 192, 128), Recorder()
    file = MemoryFile(pages, shape, MODEL)
    file.begin()
    pages.log.clear()
    file.write(vectors(0, shape), "x")
    assert sum(len(entry[1]) for entry in pages.log if entry) < 2 * PAGE
    read: list[int] = []
    real = pages.read

    def counted(offset: int, length: int) -> bytes:
        read.append(length)
        return real(offset, length)

    pages.read = counted  # type: ignore[method-assign]
    MemoryFile(pages, shape, MODEL).episode(0)
    assert sum(read) < 16 * PAGE
