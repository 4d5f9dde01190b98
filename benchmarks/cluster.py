"""`bitmar caption --data` by the nodes of a Ray cluster against one process, and with nodes that are killed.

    python benchmarks/cluster.py --json out/cluster.json

The nodes are processes of this machine, a core each. A round captions one shard and all shards, in one process and by
one node, two, ...: the difference is what a photo takes, and the rest what a run takes to begin. The fastest of each
counts; on a machine that does other work as well, neither is worth much.
"""

from __future__ import annotations

import json as json_module
import os
import random
import tarfile
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import redirect_stderr
from itertools import groupby, islice
from pathlib import Path
from typing import Annotated, Any

import typer
from _machine import SHARED, publish, run, skip_without_shared_data

import bitmar
from bitmar.core.errors import BitMarError

STORE = 100 << 20  # bytes of a node's object store


def main(
    data: Annotated[Path, typer.Option(help="A WebDataset shard; its photos are dealt out to smaller ones.")] = SHARED
    / "captions"
    / "flickr8k-val-00000.tar",
    photos: Annotated[int, typer.Option(help="How many of them.")] = 400,
    shards: Annotated[int, typer.Option(help="Shards to deal them out to.")] = 16,
    nodes: Annotated[int, typer.Option(help="The most nodes.")] = 3,
    rounds: Annotated[int, typer.Option(help="Of each kind; the fastest counts.")] = 3,
    kills: Annotated[int, typer.Option(help="Runs in which a node is killed somewhere in the middle.")] = 10,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Measure the overhead, the growth with nodes, and what a killed node loses or doubles."""
    skip_without_shared_data(data)
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as quiet, redirect_stderr(quiet):
        folder = Path(name)
        count = deal_out(data, folder, photos, shards)
        captioner = Captioner(folder)
        processes = Processes()
        try:
            took: dict[str, list[float]] = defaultdict(list)
            for number in range(1, nodes + 1):
                processes.add()
                captioner.seconds(None, shards)
                captioner.seconds(processes.address, 1)  # Python's files into the system's cache
                for _ in range(rounds):
                    for where, address in (("plain", None), (f"nodes_{number}", processes.address)):
                        for some in (1, shards):
                            took[f"{where} {some}"].append(captioner.seconds(address, some))
            ends = [captioner.lost_and_doubled(processes) for _ in range(kills)]
        finally:
            processes.stop()
    one = -(-count // shards)
    figures: dict[str, Any] = {"photos": count}
    figures |= {name: {} for name in ("ms_per_photo", "seconds_to_begin", "core_hours_per_million")}
    for where, cores in (("plain", 1), *((f"nodes_{number}", number) for number in range(1, nodes + 1))):
        less, more = min(took[f"{where} 1"]), min(took[f"{where} {shards}"])
        each = (more - less) / (count - one)
        figures["ms_per_photo"][where] = 1e3 * each
        figures["seconds_to_begin"][where] = less - one * each
        figures["core_hours_per_million"][where] = cores * 1e6 * each / 3600
    figures["overhead_of_one_node"] = figures["ms_per_photo"]["nodes_1"] / figures["ms_per_photo"]["plain"] - 1
    figures["kills"] = {
        "runs": kills,
        "lost": sum(lost for lost, _ in ends),
        "doubled": sum(twice for _, twice in ends),
    }
    publish("cluster", figures, data=f"{data.name}, {count} photos in {shards} shards", out=json)


def deal_out(source: Path, folder: Path, photos: int, shards: int) -> int:
    """Write the first samples of a shard to smaller ones, in its order; how many there are."""
    with tarfile.open(source) as tar:
        samples = [list(group) for _, group in groupby(tar, key=lambda member: member.name.partition(".")[0])]
        samples = list(islice(samples, photos))
        size = -(-len(samples) // shards)
        for number in range(shards):
            with tarfile.open(folder / f"part-{number:03d}.tar", "w") as part:
                for member in (m for sample in samples[number * size : (number + 1) * size] for m in sample):
                    part.addfile(member, tar.extractfile(member))
    return len(samples)


class Captioner:
    """The command's work, without its start."""

    def __init__(self, folder: Path) -> None:
        self.out, self.folder, self.model = folder / "captions.json", folder, bitmar.load()
        self.expected = b""

    def seconds(self, cluster: str | None, shards: int) -> float:
        """One run over the first shards. BitMarError for a file of other captions."""
        begun = time.perf_counter()
        self.run(cluster, shards)
        took = time.perf_counter() - begun
        written = self.out.read_bytes()
        if len(written) > len(self.expected) and cluster is None:
            self.expected = written
        if not self.expected.startswith(written):
            raise BitMarError(f"{cluster} did not write what one process writes")
        return took

    def run(self, cluster: str | None, shards: int) -> None:
        from bitmar.cli.shards import caption_shards

        paths = [str(path) for path in sorted(self.folder.glob("*.tar"))[:shards]]
        caption_shards(self.model, paths, None, self.out, {}, None, cluster)

    def lost_and_doubled(self, processes: Processes) -> tuple[int, int]:
        """Photos that a run lost, and that it wrote twice, during which one node was killed; the node comes back."""
        partial = self.out.with_name(f"{self.out.name}.partial")
        some = random.randrange(1, self.expected.count(b"\n") // 2)

        def kill() -> None:
            while not partial.exists() or partial.read_bytes().count(b"\n") < some:
                time.sleep(0.01)
            processes.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        self.run(processes.address, 1 << 30)
        killer.join()
        processes.add()
        keys = [json_module.loads(line)["key"] for line in self.out.read_text().splitlines()]
        expected = {json_module.loads(line)["key"] for line in self.expected.splitlines()}
        if len(keys) == len(expected) and self.out.read_bytes() != self.expected:
            raise BitMarError("with a node killed, other captions were written")
        return len(expected - set(keys)), len(keys) - len(set(keys))


class Processes:
    """A cluster on this machine: a head without cores, and nodes of one core."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster, self._nodes = Cluster(), list[Any]()
        self._cluster.add_node(num_cpus=0, object_store_memory=STORE, include_dashboard=False)
        self.address: str = self._cluster.address

    def add(self) -> None:
        """One more node."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=STORE))

    def kill(self) -> None:
        """Any one node, at once."""
        self._cluster.remove_node(self._nodes.pop(random.randrange(len(self._nodes))), allow_graceful=False)

    def stop(self) -> None:
        """The head and all nodes."""
        self._cluster.shutdown()


if __name__ == "__main__":
    run(main)
