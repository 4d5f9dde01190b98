"""The `.mem` file with many slots: it grows, and a write costs the same for any number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitmar.core.errors import MemoryFileError
from bitmar.session.file import MemoryFile
from bitmar.session.keep import keep
from bitmar.session.layout import ENTRY, PAGE, Layout, Seal, Shape
from bitmar.session.pages import FilePages, RamPages

from ._files import MODEL, SMALL, Recorder, contents, filled, opened, operations, vectors


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
