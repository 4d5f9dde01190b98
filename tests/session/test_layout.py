from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st

from bitmar.session.layout import flipped_checksum


@given(st.binary(max_size=300), st.binary(max_size=80), st.integers(0, 200))
def test_a_checksum_follows_the_bits_that_flip(data: bytes, part: bytes, begin: int) -> None:
    data = data.ljust(begin + len(part), b"\7")
    flipped = bytearray(data)
    for i, byte in enumerate(part):
        flipped[begin + i] ^= byte
    assert flipped_checksum(zlib.crc32(data), part, len(data) - begin - len(part)) == zlib.crc32(flipped)


def test_a_part_long_before_the_end() -> None:
    data = bytearray(5_000_000)
    data[100:103] = b"abc"
    assert flipped_checksum(zlib.crc32(bytes(len(data))), b"abc", len(data) - 103) == zlib.crc32(data)
