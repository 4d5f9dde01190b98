"""Captioned photos from a tar: whatever is in it, samples come out or are reported, and nothing else happens."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
from pathlib import Path

from bitmar.core.errors import DataError
from bitmar.data.sources import iter_webdataset

from .changes import ODD_VALUES, Raw, twist

_SIDECAR = {"captions": ["A dog.", "Ein Hund läuft."], "caption": "A cat.", "license": 3, "width": 9}
_FIELDS = ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
_PACKERS = (gzip.compress, bz2.compress, lzma.compress)


def _tar(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    used = -(-len(file.getvalue().rstrip(b"\0")) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return file.getvalue()[:used] + bytes(2 * tarfile.BLOCKSIZE)  # the end mark, without the zeros to a full record


class ShardTarget:
    max_bytes = 1 << 15

    def __init__(self, folder: Path) -> None:
        self._path = folder / "input.tar"
        members = {"a.jpg": b"photo", "a.json": json.dumps(_SIDECAR).encode(), "b.png": b"photo", "b.txt": b"A bird."}
        long = {"d" * 90 + "/" + "é" * 80 + ".jpg": b"photo"}
        plain = _tar(members)
        packed = [pack(plain) for pack in _PACKERS]
        self.seeds = [
            plain,
            _tar(members, tarfile.USTAR_FORMAT),
            _tar(members | long, tarfile.GNU_FORMAT),
            *packed,
        ]

    def one_input(self, data: bytes) -> None:
        self._path.write_bytes(data)
        reported: list[str] = []
        for sample in iter_webdataset(str(self._path), lambda name, reason: reported.append(f"{name}: {reason}")):
            assert sample.image and all(isinstance(text, str) and text.strip() for text in sample.captions)
            "".join(sample.captions).encode()  # no lone surrogates
        if reported:
            raise DataError("; ".join(reported))

    def mutate(self, data: bytes, rng: random.Random, raw: Raw) -> bytes:
        kind = rng.randrange(6)
        if kind == 0:
            sidecar = json.dumps(twist(_SIDECAR, rng)).encode()
            return _tar({"a.jpg": b"photo", "a.json": sidecar if rng.random() < 0.7 else raw(sidecar)})
        if kind == 1:
            return rng.choice(_PACKERS)(raw(data))
        if kind == 2 and len(data) >= tarfile.BLOCKSIZE:
            return _with_header(data, rng)
        if kind == 3:
            name = str(rng.choice(ODD_VALUES))[:90].encode("utf-8", "replace").decode()
            return _tar({f"{name}.jpg": b"photo", "a.jpg": b"photo", "a.txt": raw(b"A bird.")})
        return raw(data)


def _with_header(data: bytes, rng: random.Random) -> bytes:
    """One field of a header replaced, and the header's checksum made right again."""
    at = rng.randrange(len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    header = bytearray(data[at : at + tarfile.BLOCKSIZE])
    start, length = rng.choice(_FIELDS)
    fill = rng.choice((b"\0", b"7", b"\xff", b"\x80\0", b"../", b" ", b"-1", b"x", b"L", b"g", b"S", rng.randbytes(4)))
    header[start : start + length] = (fill * length)[:length]
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + tarfile.BLOCKSIZE :]
