"""Small `.mem` files, and all that can be read of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from bitmar.session.file import MemoryFile
from bitmar.session.layout import Shape, Vectors
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


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 99)),
        st.tuples(st.just("forget"), st.integers(0, 2)),
        st.tuples(st.just("touch"), st.integers(0, 2)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


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
