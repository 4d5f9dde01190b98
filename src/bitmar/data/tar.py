"""The files of a tar, one at a time, however damaged the tar is.

`tarfile` ends at a damaged header as if the archive ended there. Here reading goes on at the next valid header, and
what lies between is reported, so that nothing is lost in silence. Nothing is ever unpacked to the disk.
"""

from __future__ import annotations

import bz2
import gzip
import http.client
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

MAX_MEMBER = 256 << 20  # bytes of one file; it is held in memory
_MAX_HEADER = 1 << 20  # of a long name or a pax header
_BLOCK = tarfile.BLOCKSIZE
_COPY = 1 << 16
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of the tar. skipped: why its data was left out (a link, a sparse file, too large), else ""."""

    name: str
    data: bytes
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of the tar that could not be read; what came before and comes after it could. last: nothing comes."""

    offset: int
    reason: str
    last: bool = False


def read_tar(file: IO[bytes]) -> Iterator[Member | Damage]:
    """Every file of a tar, plain or in gz, bz2 or xz, in its order, and every damaged place where it lies.

    file: only read from, never sought, so that it may be a download. Memory: one member, at most 256 MiB.
    """
    yield from _Reader(_decompressed(file)).read()


class _Reader:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0  # bytes read, after decompression

    def read(self) -> Iterator[Member | Damage]:
        try:
            yield from self._members()
        except _Cut as error:
            yield Damage(self._at, f"cut off at byte {self._at:,}{error}; the rest is lost", last=True)
        except _UNREADABLE as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            yield Damage(self._at, f"unreadable from byte {self._at:,} on ({reason}); the rest is lost", last=True)

    def _members(self) -> Iterator[Member | Damage]:
        renamed: dict[str, str] = {}  # what a long name or a pax header says of the next member
        lost_from: int | None = None  # where the blocks began that are no header
        bad, zeros = False, 0  # whether one of these is more than zeros; how many zeros were the last
        while block := self._take(_BLOCK):
            at = self._at - len(block)
            if len(block) == _BLOCK and block.count(0) == _BLOCK:
                zeros += 1
                lost_from = at if lost_from is None else lost_from
                continue
            header = _header(block)
            if header is None:
                if len(block) < _BLOCK and at and not bad:
                    if zeros:
                        break  # a few bytes after the end mark
                    raise _Cut("")
                lost_from = at if lost_from is None else lost_from
                renamed, bad, zeros = {}, True, 0
                continue
            if lost_from is not None:
                reason = f"{at - lost_from:,} bytes from byte {lost_from:,} on are unreadable; reading goes on at"
                yield Damage(lost_from, f"{reason} {_printable(header.name)!r}")
            lost_from, bad, zeros = None, False, 0
            if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
                body = self._body(header.size, " in a header")
                if (found := _overrides(header, body)) is None:
                    yield Damage(at, f"the header at byte {at:,} cannot be read; the next file may have lost its name")
                renamed = renamed | (found or {})
                continue
            if header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
                self._skip(header.size, "")
                continue
            yield from self._member(block, header, renamed)
            renamed = {}
        if bad or not zeros:
            yield self._end(lost_from)

    def _member(self, block: bytes, header: tarfile.TarInfo, renamed: dict[str, str]) -> Iterator[Member]:
        name = renamed.get("path", header.name)
        size = int(renamed.get("size", header.size))
        sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in renamed)
        if header.type == tarfile.GNUTYPE_SPARSE:
            more = block[482]
            while more:  # its map goes on in further blocks
                more = self._exactly(_BLOCK, name)[504]
        if header.isdir():
            return
        inside = f" inside {_printable(name)!r}"
        if not header.isreg() and header.type in tarfile.SUPPORTED_TYPES:
            yield Member(name, b"", f"is a {'link' if header.issym() or header.islnk() else 'device'}, no file")
        elif sparse:
            self._skip(size, inside)
            yield Member(name, b"", "is stored as a sparse file, which shards do not hold")
        elif size > MAX_MEMBER:
            self._skip(size, inside)
            yield Member(name, b"", f"has {size:,} bytes, more than the {MAX_MEMBER >> 20} MiB that a file may have")
        else:
            yield Member(name, self._body(size, inside))

    def _end(self, lost_from: int | None) -> Damage:
        if self._at == 0:
            return Damage(0, "the file is empty", last=True)
        if lost_from == 0:
            return Damage(0, "no tar file: there is no file in it", last=True)
        if lost_from is None:
            return Damage(self._at, "cut off: tar's end mark is missing, so files may be lost", last=True)
        size = self._at - lost_from
        return Damage(lost_from, f"the last {size:,} bytes, from byte {lost_from:,} on, are unreadable", last=True)

    def _take(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only where the file ends."""
        parts, missing = [], size
        while missing and (part := self._file.read(min(missing, 1 << 20))):
            parts.append(part)
            missing -= len(part)
        self._at += size - missing
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _exactly(self, size: int, inside: str) -> bytes:
        data = self._take(size)
        if len(data) < size:
            raise _Cut(inside)
        return data

    def _body(self, size: int, inside: str) -> bytes:
        data = self._exactly(size, inside)
        self._exactly(-size % _BLOCK, inside)
        return data

    def _skip(self, size: int, inside: str) -> None:
        left = size + -size % _BLOCK
        while left:
            left -= len(self._exactly(min(left, _COPY), inside))


class _Cut(Exception):
    """The file ends where it should go on; the message says inside what."""


def _header(block: bytes) -> tarfile.TarInfo | None:
    """The header in a block, None if it is none: its checksum decides."""
    if len(block) < _BLOCK or not block[148:156].strip(b" \0").isdigit():  # cheap, as damage may be long
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return None
    special = header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
    special = special or header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
    return None if header.size < 0 or (special and header.size > _MAX_HEADER) else header


def _overrides(header: tarfile.TarInfo, body: bytes) -> dict[str, str] | None:
    """The path, size and sparse records of a pax header, or the path of a long-name header; None if damaged."""
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": body.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")}
    found = {}
    while body.strip(b"\0"):
        digits, _, _ = body.partition(b" ")
        length = int(digits) if len(digits) < 8 and digits.isdigit() else 0
        key, sign, value = body[len(digits) + 1 : length].partition(b"=")
        if not sign or not value.endswith(b"\n") or length > len(body):
            return None
        name, text = key.decode("utf-8", "replace"), value[:-1].decode("utf-8", "surrogateescape")
        if name == "size" and not (text.isascii() and text.isdigit() and len(text) < 19):
            return None
        if name in ("path", "size") or name.startswith("GNU.sparse"):
            found[name] = text
        body = body[length:]
    return found


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    begun = _Peeked(file)
    openers: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    for magic, opener in openers.items():
        if begun.begin.startswith(magic):
            opened: IO[bytes] = opener(begun)
            return opened
    return begun  # type: ignore[return-value]


class _Peeked:
    """A stream whose first bytes have been looked at already."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.begin = file.read(6)
        self._left = self.begin

    def read(self, size: int = -1) -> bytes:
        if self._left:
            given, self._left = self._left, b""
            return given if size < 0 or size >= len(given) else self._give_back(given, size)
        return self._file.read(size)

    def _give_back(self, given: bytes, size: int) -> bytes:
        self._left = given[size:]
        return given[:size]
