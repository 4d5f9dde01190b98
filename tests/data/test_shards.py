from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitmar.core.errors import DataError
from bitmar.data.shards import allow_pipes, expand_shards, open_shard, shard_stems


@pytest.mark.parametrize("name", ["[x].tar", "a{b}.tar", "{a,b", "a#b?c;d&e.tar", "pipe.tar", "a b'\".tar", "*.tar"])
def test_a_name_that_exists_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"shard")
    (tmp_path / "other.tar").write_bytes(b"other")
    (found,) = expand_shards(str(tmp_path / name))
    with open_shard(found) as file:
        assert file.read() == b"shard"


@pytest.mark.parametrize("pattern", ["{a,b", "a}", "{0..3000000}://", "x\0y", "", "n" * 5000, "gone-*.tar"])
def test_what_names_no_shard_is_one_clear_error(pattern: str) -> None:
    with pytest.raises(DataError):
        expand_shards(pattern)


@pytest.mark.parametrize(
    "numbers", ["0..99999999999", "-9..9999999", "99999999..0", "0..99999999..2", "0.." + "9" * 5000]
)
def test_a_slip_of_the_braces_is_told_before_its_names_are_made(numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitmar.data.shards.braceexpand", None)
    with pytest.raises(DataError, match="names more than 1,000,000 shards"):
        expand_shards(f"{{{numbers}}}.tar")


def test_a_range_may_have_steps(tmp_path: Path) -> None:
    for number in (0, 9_000_000):
        (tmp_path / f"{number}.tar").write_bytes(b"")
    assert len(expand_shards(f"{tmp_path}/{{0..9000000..9000000}}.tar")) == 2


def test_one_shard_by_two_names_counts_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "b.tar").symlink_to("a.tar")
    for other in ("a.tar", "./a.tar", str(tmp_path / "a.tar"), "b.tar", "*.tar"):
        with pytest.raises(DataError, match=r"the shard a\.tar is named twice"):
            expand_shards(["a.tar", other])


def test_a_folder_is_told_how_to_name_its_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"is a folder: name the shards in it, as '{tmp_path}/\*\.tar'"):
        expand_shards(f"{tmp_path}/")


def test_stems_are_as_long_as_it_takes_to_tell_them_apart() -> None:
    assert shard_stems(["/a/x-0.tar", "/a/x-1.tar.gz", "https://h/x-2.tar?k=a/b"]) == ["x-0", "x-1", "x-2"]
    assert shard_stems(["/a/c/x.tar", "/b/c/x.tar", "y.tar"]) == ["a/c/x", "b/c/x", "y"]
    assert shard_stems(["x.tar", "x.tar.gz", "a/x.tar"]) == ["x#0", "x#1", "a/x"]


def test_a_pipe_runs_only_where_it_was_allowed(tmp_path: Path) -> None:
    command = f"pipe:echo ran > {tmp_path}/ran; cat {tmp_path}/ran"
    with pytest.raises(DataError, match="--allow-pipe"):
        expand_shards(command)
    with pytest.raises(OSError, match="nobody has allowed"), open_shard(command):
        pass
    assert not (tmp_path / "ran").exists()
    allow_pipes()
    try:
        with open_shard(*expand_shards(command)) as file:
            assert file.read() == b"ran\n"
        with pytest.raises(OSError, match="status 3"), open_shard("pipe:exit 3") as file:
            file.read()
    finally:
        allow_pipes(False)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_urls_are_read_without_a_shell(host: str, tmp_path: Path) -> None:
    (tmp_path / "s-0.tar").write_bytes(b"shard")
    (shard,) = expand_shards(f"{host}/s-{{0..0}}.tar")
    with open_shard(shard) as file:
        assert file.read() == b"shard"
    with open_shard((tmp_path / "s-0.tar").as_uri()) as file:
        assert file.read() == b"shard"
    with pytest.raises(OSError, match="HTTP 404"), open_shard(f"{host}/gone.tar"):
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.tar", "http://[x/y.tar", "nosuch://x/y.tar", "http://x y/';ls"])
def test_a_dead_url_is_an_error_with_a_reason(url: str) -> None:
    with pytest.raises(OSError, match=r"connection|URL|opened"), open_shard(url):
        pass


def test_globs_of_other_file_systems() -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    for name in ("b-1.tar", "b-0.tar", "c.tar"):
        store.pipe(f"/globbed/{name}", name.encode())
    assert expand_shards("memory://globbed/b-*.tar") == ["memory:///globbed/b-0.tar", "memory:///globbed/b-1.tar"]
    (shard,) = expand_shards("memory://globbed/{c..c}.t*")
    with open_shard(shard) as file:
        assert file.read() == b"c.tar"
    with pytest.raises(DataError, match=r"no shard at memory://globbed/x-\*.tar"):
        expand_shards("memory://globbed/x-*.tar")
    with pytest.raises(DataError, match=r"cannot list nosuch://x/\*.tar: .*nosuch"):
        expand_shards("nosuch://x/*.tar")


def test_a_bucket_without_permission_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec.implementations.memory")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(memory.MemoryFileSystem, "glob", forbidden)
    monkeypatch.setattr(memory.MemoryFileSystem, "_open", forbidden)
    with pytest.raises(DataError, match=r"cannot list memory://x/\*.tar: Access Denied"):
        expand_shards("memory://x/*.tar")
    with pytest.raises(OSError, match="Access Denied"), open_shard("memory://x/y.tar"):
        pass
