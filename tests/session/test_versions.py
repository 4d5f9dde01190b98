"""The `.mem` file, byte by byte, and files of version 1."""

from __future__ import annotations

import base64
import os
import stat
import struct
import time
import zlib
from pathlib import Path

import pytest

from bitmar.core.errors import MemoryBusyError
from bitmar.session.file import MemoryFile
from bitmar.session.layout import PAGE
from bitmar.session.pages import FilePages

from ._files import MODEL, SMALL, contents, opened, vectors

# What version 1 made of four episodes in three slots, the first overwritten, the second forgotten, the third recalled.
VERSION_1 = (
    "c-rmOze^i&7{~D^xoWh9_FNPPAyRM-=};VsUlj+zq%n7iYb_15P^zU;=pq>e7bVH!C<lUrgXAwLw*>r!y~Mk0LMU!sT1csOY62-2"
    "hjuAcV&1Rg;S1mAK3|T9<G86=Gd7u&SU^OyM)fo*)LJDdviSVpuI4eKa_aoy`wIa800000H=?Jt2L8|w{v~_=@zHp&EkES9RG=;2"
    "->BTm&YRPZ%Wu<9YJ;mkA4HnH%X=GZTHAeozEAx=S8L@bqhIP{5-OY~PwL5m-4D&)RblkUown!k^SaWm<@;rAVQYGCdvpI~raJO%"
    "=I*CvuQdGqGj9L@0001>8}&BoVEuKFNdN!<003}%BuqOl$}ZO&e=lrGrRGXGdtw<8Ph6`aE|UTP0001>a}~XWCsp0G4fRw{UGLe3"
    "9O_=!vFB{Vntx{GO_{Sj-BXSnGdTbN0000wiHbQXYd#zIcl5M<Ry6Zoc2?q2s+E;%C72Tc00000oh!5a>fO?dOgO?Q0Ceg1FUlxz"
    "gYVxXM$yH-PVgTF0QjGN0RZEFIs"
)


def test_the_bytes_of_a_file(tmp_path: Path) -> None:
    """Version 2, to the byte: an empty file, and where an episode's parts stand."""
    path = tmp_path / "a.mem"
    file = opened(path)
    file.begin()
    file.made = 0.0
    raw = path.read_bytes()
    head = struct.pack("<8sIIIIII64s", b"BITMAR\0M", 2, 3, 5, 7, 5, 512, MODEL.encode()) + raw[96:104]
    assert raw == (head + struct.pack("<I", zlib.crc32(head))).ljust(10 * PAGE, b"\0")
    file.write(vectors(1), "a dog", photo="00000000000000ff", when=2.0)
    raw = path.read_bytes()
    value, image, text = (vector.astype("<f2").tobytes() for vector in vectors(1) if vector is not None)
    record = b"a dog".ljust(512, b"\0") + bytes(128)
    for start, part in ((6, value), (7, image), (8, text), (9, record)):
        assert raw[start * PAGE : (start + 1) * PAGE] == part.ljust(PAGE, b"\0")
    crcs = [zlib.crc32(part) for part in (value, image, text, record[:640])]
    entry = struct.pack("<QIIdQIHH4II", 1, 0, 1 | 2 | 4 | 16, 2.0, 255, 1, 5, 0, *crcs, 0)
    entry += struct.pack("<I", zlib.crc32(entry))
    assert raw[4 * PAGE : 5 * PAGE] == entry.ljust(PAGE, b"\0")
    seal = struct.pack("<QIIII", 1, 1, 0, zlib.crc32(bytes(4 * 64)), zlib.crc32(entry[:-4]))
    seal += struct.pack("<I", zlib.crc32(seal))
    assert raw[PAGE : 4 * PAGE] == bytes(PAGE) + 2 * seal.ljust(PAGE, b"\0")


def test_version_1_is_read_and_rewritten_before_the_first_write(tmp_path: Path) -> None:
    path, old = tmp_path / "a.mem", zlib.decompress(base64.b85decode(VERSION_1))
    path.write_bytes(old)
    path.chmod(0o644)
    file = opened(path)
    before = contents(file)
    assert {slot: text for slot, (text, *_) in before.items()} == {0: "episode 3", 2: "episode 2"}
    assert path.read_bytes() == old and file.usage()[2] == 1
    reader = opened(path)
    file.begin()
    assert contents(file) == before and file.usage()[2] == 1
    new = path.read_bytes()
    assert new[8] == 2 and new[4 * PAGE :] == old[PAGE:] and len(new) == len(old) + 3 * PAGE
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file.write(vectors(9), "and on")
    reader.refresh()
    assert contents(reader) == contents(file) and len(contents(file)) == 3
    with pytest.raises(MemoryBusyError):
        reader.begin()


def test_version_1_grows_as_it_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    path.write_bytes(zlib.decompress(base64.b85decode(VERSION_1)))
    file = MemoryFile(FilePages(path), SMALL._replace(slots=200), MODEL, grow=True)
    before, usage = contents(file), file.usage()[file.live()].tolist()
    file.begin()
    assert contents(file) == before == contents(opened(path)) and file.shape.slots == 200
    assert file.usage()[file.live()].tolist() == usage


def test_an_empty_file_of_version_1(tmp_path: Path) -> None:
    path = tmp_path / "a.mem"
    head = struct.pack("<8sIIIIII64sd", b"BITMAR\0M", 1, 3, 5, 7, 5, 512, MODEL.encode(), time.time())
    path.write_bytes((head + struct.pack("<I", zlib.crc32(head))).ljust(7 * PAGE, b"\0"))
    file = opened(path)
    assert contents(file) == {}
    file.write(vectors(0), "first")
    assert len(contents(opened(path))) == 1
