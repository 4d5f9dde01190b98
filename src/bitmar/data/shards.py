"""Which shards are meant by paths, globs, braces and URLs, and opening one; without a shell, unless it is asked for."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from braceexpand import braceexpand

from bitmar.core.errors import DataError
from bitmar.data.text import near_path

_MOST = 1_000_000  # shards; more is a slip of the braces
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}")
_TIMEOUT = 60  # seconds without a byte from a host
_PIPE = "pipe:"
_HTTP = ("http", "https")


class _Pipes:
    """Whether `pipe:` shards may run: only the command line can say so, no recipe."""

    allowed = False


def allow_pipes(allowed: bool = True) -> None:
    """Let `pipe:COMMAND` shards run their shell commands in this process, or no longer."""
    _Pipes.allowed = allowed


def pipes_allowed() -> bool:
    """Whether `pipe:` shards may run here."""
    return _Pipes.allowed


def expand_shards(patterns: str | Sequence[str]) -> list[str]:
    """The shards that patterns name: paths and URLs, each once; sorted where a glob finds several.

    A name that exists is taken as it is, whatever brackets it has. A glob may be a path, or an address of any file
    system that fsspec knows (s3://bucket/train-*.tar) but http. Raises DataError for what is not there, is a folder,
    is named twice, has unbalanced braces, or is a `pipe:` that `allow_pipes` has not admitted, and where a file system
    does not let its names be read.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not isinstance(pattern, str | Path):
            raise DataError(f"shards are named by text, not by {pattern!r}")
        found += _expand(str(pattern))
    files = [os.path.realpath(shard) if _is_file(shard) else shard for shard in found]  # whatever they are called
    counts = Counter(files)
    if twice := [shard for shard, file in zip(found, files, strict=True) if counts[file] > 1]:
        same = "" if len(set(twice[:2])) == 1 else f", also as {twice[1]}"
        raise DataError(f"the shard {twice[0]} is named twice{same}; its photos would count twice")
    return found


def _expand(pattern: str) -> Iterator[str]:
    if pattern.startswith(_PIPE):
        if not _Pipes.allowed:
            raise DataError(f"{pattern} would run a shell command: if you trust it, give the command --allow-pipe")
        yield pattern
        return
    if "\0" in pattern or not pattern:
        raise DataError(f"no shard can be called {pattern!r}")
    if _is_file(pattern):
        yield pattern
        return
    for name in _braces(pattern):
        if _is_file(name):
            yield name
        elif "://" in name:
            yield from _remote_names(name)
        elif matches := sorted(path for path in _glob(name) if Path(path).is_file()):
            yield from matches
        elif _is_dir(name):
            raise DataError(f"{name} is a folder: name the shards in it, as '{name.rstrip('/')}/*.tar'")
        else:
            raise DataError(f"no shard at {name}{near_path(Path(name))}")


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name too long for the system
        return False


def _is_dir(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def _glob(name: str) -> list[str]:
    try:
        return glob(name, recursive=True)
    except (OSError, ValueError):
        return []


def _remote_names(url: str) -> Iterable[str]:
    """The address itself, or those that its glob finds; http has no listing, and a question mark in it is a query."""
    scheme = url.partition("://")[0].lower()
    if scheme in _HTTP or not has_magic(url):
        return [url]
    try:
        system, path = _file_system(url)
        found = sorted(str(system.unstrip_protocol(name)) for name in system.glob(path))
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"cannot list {url}: {_reason(error)}") from error
    if not found:
        raise DataError(f"no shard at {url}")
    return found


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it. Raises OSError where a package is missing."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise OSError(f"{url.partition('://')[0]}:// needs fsspec: pip install fsspec") from None
    system, path = url_to_fs(url)
    return system, path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def _braces(pattern: str) -> Iterable[str]:
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    too_many = DataError(f"{pattern!r:.200} names more than {_MOST:,} shards")
    for first, last, step in _RANGE.findall(pattern):  # which the library would make a list of
        if max(map(len, (first, last, step))) > 18:
            raise too_many
        if abs(int(last) - int(first)) // max(abs(int(step or 1)), 1) >= _MOST:
            raise too_many
    try:
        names = list(islice(braceexpand(pattern), _MOST + 1))
    except ValueError as error:  # UnbalancedBracesError is one
        raise DataError(f"the braces of {pattern!r:.200} cannot be expanded ({error!s:.200})") from None
    if len(names) > _MOST:
        raise too_many
    return names


def named_shards(patterns: str | Sequence[str]) -> list[tuple[str, str]]:
    """The shards of `expand_shards`, each with its short name."""
    shards = expand_shards(patterns)
    return list(zip(shards, shard_stems(shards), strict=True))


def shard_stems(shards: Sequence[str]) -> list[str]:
    """A short name for each shard, no two alike: its file's, with as many folders before it as that takes."""
    parts = [shard.split("?")[0].split("/") if "://" in shard else shard.split("/") for shard in shards]
    for each in parts:
        each[-1] = each[-1].split(".tar")[0]
    length = [1] * len(parts)
    while True:
        names = ["/".join(each[-n:]) for each, n in zip(parts, length, strict=True)]
        alike = {name for name, count in Counter(names).items() if count > 1}
        longer = [n + (name in alike and n < len(each)) for each, n, name in zip(parts, length, names, strict=True)]
        if longer == length:
            break
        length = longer
    return [f"{name}#{i}" if name in alike else name for i, name in enumerate(names)]


@contextmanager
def open_shard(shard: str) -> Iterator[IO[bytes]]:
    """One of `expand_shards` as a stream of bytes. Raises OSError, with a reason a person can read."""
    if shard.startswith(_PIPE):
        with _piped(shard.removeprefix(_PIPE)) as stream:
            yield stream
    elif "://" in shard and not _is_file(shard):
        with _remote(shard) as stream:
            yield stream
    else:
        with open(shard, "rb") as file:
            yield file


@contextmanager
def _piped(command: str) -> Iterator[IO[bytes]]:
    if not _Pipes.allowed:
        raise OSError("a shell command that nobody has allowed")
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ended = False
        try:
            yield process.stdout
            ended = not process.stdout.read(1)
        finally:
            process.stdout.close()
            if not ended:
                process.kill()
        if ended and process.wait():
            raise OSError(f"its command ended with status {process.returncode}")


@contextmanager
def _remote(url: str) -> Iterator[IO[bytes]]:
    scheme = url.partition("://")[0].lower()
    if scheme in _HTTP:
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                yield cast("IO[bytes]", response)
        except urllib.error.HTTPError as error:
            raise OSError(f"HTTP {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(f"no connection: {error.reason}") from error
        except (ValueError, http.client.HTTPException) as error:
            raise OSError(f"no valid URL, or no HTTP: {error}") from error
        return
    try:
        system, path = _file_system(url)
        stream: Any = system.open(path, "rb")
    except OSError:
        raise
    except Exception as error:  # each file system has errors of its own, a missing package among them
        raise OSError(f"{scheme}:// cannot be opened: {_reason(error)}") from error
    with stream:
        yield stream
