from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmar.data import tar as module
from bitmar.data.tar import Damage, Member, read_tar


def make(members: dict[str, bytes], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=fmt) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def read(data: bytes) -> tuple[dict[str, bytes], list[Damage]]:
    items = list(read_tar(io.BytesIO(data)))
    return {m.name: m.data for m in items if isinstance(m, Member)}, [d for d in items if isinstance(d, Damage)]


SIX = {f"{i}.txt": bytes([65 + i]) * 700 for i in range(6)}  # a header and two blocks each
LONG = {"d" * 90 + "/" + "é" * 80 + ".jpg": b"long", "/absolute/x.jpg": b"a", "../up.jpg": b"b", "end.jpg": b""}


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_whole_tars_of_every_format(fmt: int, pack: object) -> None:
    members = SIX if fmt == tarfile.USTAR_FORMAT else SIX | LONG
    assert callable(pack)
    assert read(pack(make(members, fmt))) == (members, [])


def test_a_damaged_header_is_reported_and_reading_goes_on_after_it() -> None:
    data = bytearray(make(SIX))
    data[2 * 1536 + 10] ^= 0xFF
    found, (damage,) = read(bytes(data))
    assert found == {name: text for name, text in SIX.items() if name != "2.txt"}
    assert not damage.last and damage.offset == 3072
    assert damage.reason == "1,536 bytes from byte 3,072 on are unreadable; reading goes on at '3.txt'"


@pytest.mark.parametrize("name", ["0.txt", "3.txt", "5.txt"])
def test_a_file_lost_to_zeros_is_reported(name: str) -> None:
    data = bytearray(make(SIX))
    at = int(name[0]) * 1536
    data[at : at + 512] = bytes(512)
    found, damages = read(bytes(data))
    assert found == {key: text for key, text in SIX.items() if key != name} and len(damages) == 1


def test_two_tars_in_one_file_are_both_read_and_it_is_said() -> None:
    found, (damage,) = read(make(SIX) + make({"x.txt": b"x"}))
    assert found == SIX | {"x.txt": b"x"} and "reading goes on at 'x.txt'" in damage.reason


@given(st.integers(0, 6 * 1536 - 1))
def test_a_cut_is_reported_wherever_it_is(size: int) -> None:
    found, damages = read(make(SIX)[:size])
    assert [damage.last for damage in damages] == [True]
    assert list(found) == list(SIX)[: len(found)] and all(SIX[name] == text for name, text in found.items())
    assert len(found) >= size // 1536


@given(st.integers(0, 200), st.sampled_from([gzip.compress, bz2.compress, lzma.compress]))
def test_damaged_compression_is_reported(at: int, pack: object) -> None:
    assert callable(pack)
    packed = pack(make(SIX))
    for data in (packed[: at % len(packed)], packed[: at % len(packed)] + b"\xff\x55" + packed[at % len(packed) + 2 :]):
        found, damages = read(data)
        assert damages or found == SIX  # a byte of the name or time in gzip's head means nothing


@given(st.lists(st.tuples(st.integers(0, 9215), st.integers(0, 255)), max_size=8))
def test_any_damage_ends_and_no_file_is_invented(edits: list[tuple[int, int]]) -> None:
    data = bytearray(make(SIX))
    for at, value in edits:
        data[at] = value
    found, damages = read(bytes(data))
    assert len(found) + len(damages) > 0
    if not damages:
        assert len(found) == 6


def _header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[156:157] = size.ljust(12, b"\0"), kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"K", b"g", b"S", b"7"])
@pytest.mark.parametrize("size", [b"\xff" * 12, b"77777777777", b"\x80" + b"\xff" * 11])
def test_impossible_sizes_neither_hang_nor_fill_the_memory(kind: bytes, size: bytes) -> None:
    _, damages = read(_header("x.jpg", size, kind) + make(SIX))
    assert damages


def test_links_sparse_and_oversized_files_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MEMBER", 1000)
    data = _header("l.jpg", b"0", b"2") + _header("h.jpg", b"0", b"1") + _header("s.jpg", b"0", b"S")
    items = list(read_tar(io.BytesIO(data + make({"big.jpg": bytes(1001), "small.jpg": bytes(1000)}))))
    skipped = {item.name: item.skipped for item in items if isinstance(item, Member)}
    assert "link" in skipped["l.jpg"] and "link" in skipped["h.jpg"] and "sparse" in skipped["s.jpg"]
    assert "1,001 bytes" in skipped["big.jpg"] and not skipped["small.jpg"] and len(items) == 5


@pytest.mark.parametrize(
    "records", [b"path=x\n", b"99 path=x.jpg\n", b"13 size=-512\n", b"9999999999 a=b\n", b"0 a=b\n"]
)
def test_a_damaged_pax_header_is_reported(records: bytes) -> None:
    data = _header("pax", b"%o" % len(records), b"x") + records.ljust(512, b"\0") + make({"a.jpg": b"a"})
    found, (damage,) = read(data)
    assert found == {"a.jpg": b"a"} and "lost its name" in damage.reason


@pytest.mark.parametrize("data", [b"", b"x", b"<html>404</html>" * 100, b"\x1f\x8b", bytes(300), b"\xff" * 5000])
def test_what_is_no_tar_says_so(data: bytes) -> None:
    found, (damage,) = read(data)
    assert not found and damage.last
