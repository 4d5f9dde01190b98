"""`--cluster`: a real Ray cluster of processes on this machine, some of them killed; files are those of one process.

Two nodes of one core each, beside a head that has none. What happens in the middle of a shard is arranged by shards
called `pipe:COMMAND`, whose commands a node runs when it reads them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import bitmar
from bitmar.core.errors import OutputError
from bitmar.data.cluster import _Pool, _Worker, build, compute
from bitmar.evaluate.store import Store

ray = pytest.importorskip("ray", reason="the cluster's tests need bitmar[cluster]")

Cli = Callable[..., Any]
Make = Callable[..., Path]

STORE = 80 << 20  # bytes of a node's object store, the least that Ray takes


class Nodes:
    """A head and nodes by name, each a process that can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Processes

        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # the machine may be slow
        self._processes = Processes()
        self._processes.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
        self.address = self._processes.address
        self._nodes: dict[str, Any] = {}

    def ensure(self, *names: str) -> Nodes:
        """With these nodes, and no others."""
        for name in self._nodes.keys() - set(names):
            self.kill(name)
        self._processes.wait_for_nodes()  # else work may still be given to those that were killed
        for name in names:
            if name not in self._nodes:
                self.add(name)
        return self

    def add(self, name: str, **environment: str) -> None:
        environment |= {"NODE": name}
        self._nodes[name] = self._processes.add_node(num_cpus=1, object_store_memory=STORE, env_vars=environment)

    def kill(self, name: str) -> None:
        self._processes.remove_node(self._nodes.pop(name), allow_graceful=False)

    def stop(self) -> None:
        self._processes.shutdown()


@pytest.fixture(scope="module")
def head(bucket: Bucket) -> Iterator[Nodes]:
    """A head alone; its nodes will find the bucket by their environment."""
    started = Nodes()
    yield started
    started.stop()


@pytest.fixture
def nodes(head: Nodes) -> Nodes:
    """Two nodes, a and b."""
    return head.ensure("a", "b")


class Bucket:
    """s3://shards of a server on this machine."""

    def __init__(self, address: str) -> None:
        self.address = address

    def put(self, folder: Path) -> None:
        """All files of a folder."""
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="shards")
        for path in folder.iterdir():
            client.upload_file(str(path), "shards", path.name)

    def forbid(self, forbidden: bool) -> None:
        """Whether keys that nobody has been given are turned away."""
        calls, plain = b"0" if forbidden else b"1000000", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/moto-api/reset-auth", calls, plain)).close()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    server = pytest.importorskip("moto.server", reason="a bucket for tests needs moto").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        yield Bucket(f"http://{host}:{port}")
    server.stop()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, write_shard: Make, jpeg: Callable[..., bytes]) -> Path:
    """A folder of six shards of three photos, one of which is cut off; one photo is in two shards."""
    folder = tmp_path_factory.mktemp("shards")
    for n in range(6):
        colours = [(40 * n, 20, 200), (200, 40 * n, 20), (7, 7, 7)]
        photos = [(f"{i}", jpeg(c), [f"Thing {n} {i}.", "A thing."]) for i, c in enumerate(colours)]
        if n == 3:
            photos[1] = ("1", jpeg("red")[:300], ["Cut off."])
        write_shard(folder / f"set-{n}.tar", photos)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def told(result: Any) -> list[str]:
    """What was said about photos that are left out, in its order, without the bars."""
    return [line for line in result.stderr.splitlines() if line.startswith("skipped ")]


def test_a_node_killed_in_the_middle_loses_and_doubles_nothing(
    cli: Cli, nodes: Nodes, model: Path, shards: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "read-by"
    # Whoever reads this shard first never comes to its end, as a node that hangs; the next one finds it whole.
    held = f"pipe:test -e {marker} || {{ echo $NODE > {marker}; sleep 30; }}; cat {shards}/set-1.tar"
    data = [f"{shards}/set-0.tar", held, f"{shards}/set-{{2..5}}.tar"]
    arguments = ["caption", "--allow-pipe", "--model", model, *(word for each in data for word in ("--data", each))]

    def kill_the_reader() -> None:
        while not (marker.exists() and marker.read_text().strip()):
            time.sleep(0.05)
        nodes.kill(marker.read_text().strip())

    killer = threading.Thread(target=kill_the_reader)
    killer.start()
    spread = cli(*arguments, "--out", tmp_path / "spread.json", "--cluster", nodes.address)
    killer.join()
    plain = cli(*arguments, "--out", tmp_path / "plain.json")
    assert spread.exit_code == plain.exit_code == 1 and told(spread) == told(plain)
    assert (tmp_path / "spread.json").read_bytes() == (tmp_path / "plain.json").read_bytes()
    assert not (tmp_path / "spread.json.partial").exists()


def test_a_stopped_run_goes_on_with_or_without_the_cluster(
    cli: Cli, nodes: Nodes, model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["caption", "--model", model, "--data", f"{shards}/*.tar", "--out"]
    spread = ["--cluster", nodes.address]
    whole, out = tmp_path / "whole.json", tmp_path / "captions.json"
    assert cli(*arguments, whole).exit_code == 1
    put = Store.put

    def stop_at(count: int) -> Callable[..., None]:
        def stopping(log: Store, key: str, result: Any) -> None:
            if len(log.found) == count:
                raise KeyboardInterrupt
            put(log, key, result)

        return stopping

    monkeypatch.setattr(Store, "put", stop_at(5))
    stopped = cli(*arguments, out, *spread)
    assert stopped.exit_code == 130 and "run the same command again" in stopped.stderr
    monkeypatch.setattr(Store, "put", stop_at(8))
    assert cli(*arguments, out).exit_code == 130
    monkeypatch.setattr(Store, "put", put)
    assert cli(*arguments, out, *spread).exit_code == 1
    assert out.read_bytes() == whole.read_bytes()
    assert cli(*arguments, tmp_path / "some.json", *spread, "--limit", 7).exit_code == 0
    assert (tmp_path / "some.json").read_text() == "".join(whole.read_text().splitlines(keepends=True)[:7])


def test_features_are_those_of_one_process(
    cli: Cli, nodes: Nodes, model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"{shards}/*.tar", "--tower", f"bitmar:{model}", "--views", 3]
    plain = cli("features", *arguments[:1], tmp_path / "plain", *arguments[1:])
    spread = cli("features", *arguments[:1], tmp_path / "spread", *arguments[1:], "--cluster", nodes.address)
    assert plain.exit_code == spread.exit_code == 1 and told(plain) == told(spread)
    assert files(tmp_path / "spread") == files(tmp_path / "plain")
    # Cut back to the first shards, as a kill leaves it, it becomes the same again.
    index = tmp_path / "spread" / "index.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:7]))
    assert cli("features", *arguments[:1], tmp_path / "spread", *arguments[1:], "--cluster", nodes.address).exit_code
    assert files(tmp_path / "spread") == files(tmp_path / "plain")


def test_an_evaluation_has_the_figures_of_one_process(
    cli: Cli, nodes: Nodes, model: Path, shards: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycocoevalcap", reason="scores need bitmar[eval]")
    if shutil.which("java") is None:
        pytest.skip("the COCO tokenizer needs Java")
    arguments = ["eval", "caption", "--data", f"{shards}/*.tar", "--model", model, "--no-java", "--grounding", 4]
    assert cli(*arguments, "--json", tmp_path / "plain.json").exit_code == 1
    result = cli(*arguments, "--json", tmp_path / "spread.json", "--cluster", nodes.address)
    assert result.exit_code == 1, result.output
    plain, spread = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "spread"))
    assert spread.pop("cluster") == nodes.address and plain.pop("cluster") is None and spread == plain


def test_shards_in_a_bucket(
    cli: Cli, fails: Callable[..., str], nodes: Nodes, bucket: Bucket, model: Path, shards: Path, tmp_path: Path
) -> None:
    bucket.put(shards)
    plain, spread, arguments = tmp_path / "plain.json", tmp_path / "spread.json", ["caption", "--model", model]
    assert cli(*arguments, "--data", f"{shards}/set-*.tar", "--out", plain).exit_code == 1
    arguments += ["--cluster", nodes.address, "--out", spread, "--data"]
    assert cli(*arguments, "s3://shards/set-*.tar").exit_code == 1
    assert spread.read_bytes() == plain.read_bytes()
    assert "no shard at s3://shards/gone-*.tar" in fails(*arguments, "s3://shards/gone-*.tar")
    bucket.forbid(True)
    try:
        assert "cannot list s3://shards/set-*.tar" in fails(*arguments, "s3://shards/set-*.tar")
        line = fails(*arguments, "s3://shards/set-0.tar")
        assert "s3://shards/set-0.tar could be captioned: cannot be read" in line
    finally:
        bucket.forbid(False)


def test_a_shard_that_vanishes_is_named_and_the_others_go_on(
    cli: Cli, nodes: Nodes, model: Path, shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "last.tar").write_bytes((shards / "set-5.tar").read_bytes())
    first = f"pipe:rm {tmp_path}/last.tar; cat {shards}/set-0.tar"
    out, data = tmp_path / "out.json", [first, f"{shards}/set-{{1..5}}.tar", f"{tmp_path}/last.tar"]
    words = [word for each in data for word in ("--data", each)]
    result = cli("caption", "--allow-pipe", "--model", model, *words, "--out", out, "--cluster", nodes.address)
    assert result.exit_code == 1
    assert f"skipped {tmp_path}/last.tar: cannot be read: No such file or directory" in result.stderr
    assert len(out.read_text().splitlines()) == 17


def test_a_node_with_another_version_is_refused_by_name(
    head: Nodes, fails: Callable[..., str], model: Path, shards: Path, tmp_path: Path
) -> None:
    # Run when Python starts; an editable installation would be found before another package on its path.
    (tmp_path / "sitecustomize.py").write_text('import bitmar\n\nbitmar.__version__ = "0.0.1"\n')
    head.ensure().add("other", PYTHONPATH=str(tmp_path))
    out = tmp_path / "out.json"
    line = fails("caption", "--model", model, "--data", f"{shards}/*.tar", "--out", out, "--cluster", head.address)
    assert f"has bitmar 0.0.1 and this machine {bitmar.__version__}: install the same one on all" in line
    assert line.startswith("error: node ") and not out.exists()


def test_nobody_answers(fails: Callable[..., str], model: Path, shards: Path, tmp_path: Path) -> None:
    arguments = ["caption", "--model", model, "--data", f"{shards}/*.tar", "--out", tmp_path / "out.json", "--cluster"]
    assert "--cluster is auto, or HOST:PORT" in fails(*arguments, "somewhere")
    assert "belong to --data" in fails("caption", "photo.jpg", "--cluster", "auto")


def test_a_file_that_only_the_asking_machine_has_is_not_read_as_an_empty_one(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.tar")
    assert compute(lambda *_: [], gone, "gone", (), True, "node x", list) == (None, None)  # type: ignore[arg-type]
    assert compute(lambda *_: [], gone, "gone", (), False, "node x", list) == (None, [])  # type: ignore[arg-type]


class Full:
    """Work on a node whose disk is full: from the beginning, or when it reads."""

    identity = "full"

    def __init__(self, begins: bool) -> None:
        if not begins:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/model.bitmar")

    def __call__(self, *_: Any) -> Iterator[Any]:
        yield "a caption"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_on_a_node_is_an_error_that_names_it() -> None:
    _, fault, _ = build(__name__, Full.__name__, (False,), False, "node x")
    assert isinstance(fault, OutputError)
    assert str(fault) == "node x: [Errno 28] No space left on device: '/tmp/model.bitmar'"
    fault, chunks = compute(Full(True), "a.tar", "a", (), False, "node x", list)
    assert isinstance(fault, OutputError) and chunks is None
    assert str(fault) == "node x, in a.tar: [Errno 28] No space left on device"


def test_a_full_store_of_results_on_a_node_is_an_error_that_names_it() -> None:
    """Ray keeps results in memory, and on the node's disk when that is full."""

    def get(call: object) -> Any:
        raise ray.exceptions.RayTaskError("run", "a traceback", ray.exceptions.OutOfDiskError("no disk space left"))

    pool = object.__new__(_Pool)
    pool._ray = SimpleNamespace(exceptions=ray.exceptions, get=get)
    pool._shards, pool._busy = [("a.tar", "a")], {"call": (_Worker(None, "1", "node x"), 0)}
    with pytest.raises(OutputError, match="node x has no room for results"):
        pool._take("call")


def test_text_is_tokenised_as_by_one_process(cli: Cli, nodes: Nodes, recipe: Path, tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"book {n}.txt").write_text("\n".join(f"A dog, {n} and {i}." for i in range(300)))
    arguments = ["tokenizer", "apply", recipe, "--set", f"data.text.book.path={tmp_path}/book*.txt", "--json"]
    plain = cli(*arguments)
    assert plain.exit_code == 0, plain.output
    kept = files(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "corpus")
    spread = cli(*arguments, "--cluster", nodes.address)
    assert spread.exit_code == 0 and spread.stdout == plain.stdout
    assert files(tmp_path / "cache") == kept and len(kept) == 6
    assert json.loads(plain.stdout)["domains"]["book"]["documents"] == 1620
