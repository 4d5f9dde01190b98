"""Work on shards by the nodes of a Ray cluster: one worker per core, a shard at a time, results in the shards' order.

The nodes compute and this process alone writes, so that files come out as one process writes them. A worker that dies,
alone or with its node, gives its shard back to the others; nothing of it has been written, or only what the next worker
computes again, which is passed over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bitmar import __version__
from bitmar.core.errors import BitMarError, ConfigError, DataError, DependencyError, OutputError, pip_install
from bitmar.data.shards import allow_pipes, pipes_allowed

AUTO = "auto"
_AHEAD = 2  # shards for each worker that may be done before their turn: this is what holds a fast cluster back
_CHUNK = 64  # results that travel together
_DEATHS = 3  # of workers over one shard
_PATIENCE = 120.0  # seconds without a worker before the cluster is given up
_TICK = 2.0  # seconds after which to look for new nodes


class Work(Protocol):
    """A worker's job. Built once on each, from plain arguments; it may hold a loaded model.

    identity: what results depend on beside the arguments, such as the kernels that this machine chose.
    """

    identity: str

    def __call__(self, shard: str, stem: str, known: Collection[str]) -> Iterable[Any]:
        """The results of a shard in its order, the same on every call. known: names of what need not be computed."""
        ...


class Bad(NamedTuple):
    """A result that says what `on_bad` shall hear."""

    name: str
    reason: str


class Task(NamedTuple):
    """Which `Work` to build, by its module and name, from what, and the identity that it must have, as it has here."""

    module: str
    name: str
    arguments: tuple[Any, ...]
    identity: str


class Cluster:
    """A Ray cluster that this process has joined, for the length of a `with`.

    address: "auto" for the one that runs on this machine, or that RAY_ADDRESS names, and else for this machine's own
    cores; or HOST:PORT of a head. Raises DependencyError without Ray, ConfigError if nobody answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise DependencyError(f"--cluster needs an extra: {pip_install('cluster')}") from None
        self._ray, self._joined = ray, not ray.is_initialized()
        self._pools: list[_Pool] = []
        if address != AUTO and (":" not in address or "://" in address):
            raise ConfigError(f"--cluster is auto, or HOST:PORT of a cluster's head, not {address!r}")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a user's work is told to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of what is to come
        if self._joined:
            try:
                ray.init(None if address == AUTO else address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
                raise ConfigError(f"no cluster answers at {address} ({_first_line(error)}): is its head up?") from error

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.stop()
        if self._joined:
            self._ray.shutdown()

    def results(
        self, task: Task, shards: Sequence[tuple[str, str]], known: Collection[str] = ()
    ) -> Iterator[Iterator[Any]]:
        """For each of the shards (with its stem), in order, its results, which have to be taken before the next.

        Raises ConfigError for a node with another bitmar, DataError for a shard that a node cannot see or that kills
        its workers, OutputError for a node whose disk is full, and what the work itself raises, with the node's name.
        """
        pool = _Pool(self._ray, task, shards, known)
        self._pools.append(pool)
        return map(pool.shard, range(len(shards)))


class _Worker(NamedTuple):
    """One process on a node. name: of the node, for people."""

    actor: Any
    node: str
    name: str


class _Pool:
    """The workers, and which shard each of them has."""

    def __init__(self, ray: Any, task: Task, shards: Sequence[tuple[str, str]], known: Collection[str]) -> None:
        self._ray, self._task, self._shards = ray, task, list(shards)
        self._arguments, self._known = ray.put(task.arguments), ray.put(frozenset(known))
        self._class = ray.remote(num_cpus=1, max_restarts=0)(_actor_class())
        self._new: dict[Any, Any] = {}  # the call `begin` -> its actor
        self._idle: list[_Worker] = []
        self._busy: dict[Any, tuple[_Worker, int]] = {}  # the call `run` -> the worker, the shard
        self._todo = list(range(len(shards)))  # a heap: what was lost comes before what is new
        self._done: dict[int, list[Any]] = {}
        self._deaths = [0] * len(shards)

    def shard(self, number: int) -> Iterator[Any]:
        """The results of a shard, computed again from the place where they were lost."""
        given = 0
        while True:
            while number not in self._done:
                self._step(number)
            seen = 0
            try:
                for chunk in self._done.pop(number):
                    found = self._ray.get(chunk)
                    for result in found[max(0, given - seen) :]:
                        given += 1
                        yield result
                    seen += len(found)
                return
            except self._ray.exceptions.RayError as error:  # they lay on a node that is gone
                self._again(number, error)

    def stop(self) -> None:
        """Let every worker go."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker.actor)
        for actor in self._new.values():
            self._ray.kill(actor)

    def _step(self, turn: int) -> None:
        """Give out what is to be done, and take in what comes next."""
        self._hire()
        last = turn + _AHEAD * max(1, len(self._idle) + len(self._busy))
        while self._idle and self._todo and self._todo[0] <= last:
            worker, number = self._idle.pop(), heappop(self._todo)
            shard, stem = self._shards[number]
            self._busy[worker.actor.run.remote(shard, stem, self._known, _is_here(shard))] = worker, number
        calls = [*self._busy, *self._new]
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=_TICK if self._busy else _PATIENCE)
        if not ready and not self._busy:
            raise DataError(f"no node of the cluster had a free core in {_PATIENCE:.0f} s: see `ray status`")
        for call in ready:
            if call in self._new:
                self._welcome(call)
            else:
                self._take(call)

    def _hire(self) -> None:
        """As many workers as there are cores, also on nodes that have come since, and no more than shards."""
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        hired = len(self._idle) + len(self._busy) + len(self._new)
        for _ in range(min(max(1, cores), len(self._todo) + len(self._busy)) - hired):
            actor = self._class.remote()
            call = actor.begin.remote(__version__, pipes_allowed(), self._task.module, self._task.name, self._arguments)
            self._new[call] = actor

    def _welcome(self, call: Any) -> None:
        actor = self._new.pop(call)
        try:
            node, name, version, fault, identity = self._ray.get(call)
        except self._ray.exceptions.RayActorError:  # its node went; others are hired
            return
        if version != __version__:
            has = f"bitmar {version}" if version else "no bitmar"
            raise ConfigError(f"{name} has {has} and this machine {__version__}: install the same one on all")
        if fault is not None:
            raise fault
        if identity != self._task.identity:
            raise ConfigError(
                f"{name} computes with {identity}, this machine with {self._task.identity}: their results do not "
                "belong together, leave that node out"
            )
        self._idle.append(_Worker(actor, node, name))

    def _take(self, call: Any) -> None:
        worker, number = self._busy.pop(call)
        shard = self._shards[number][0]
        try:
            fault, chunks = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, self._ray.exceptions.OutOfDiskError | self._ray.exceptions.ObjectStoreFullError):
                raise OutputError(f"{worker.name} has no room for results ({_first_line(error.cause)})") from None
            raise
        except self._ray.exceptions.RayError as error:
            self._again(number, error)
            for other in [other for other in self._idle if other.node == worker.node]:  # may be dead as well
                self._idle.remove(other)
                self._ray.kill(other.actor)
            return
        if fault is not None:
            raise fault
        self._idle.append(worker)
        if chunks is not None:
            self._done[number] = chunks
        elif _is_here(shard):
            raise DataError(f"{worker.name} has no {shard}: shards must lie where every node can read them")
        else:  # it vanished after it was given out: now it is read as one that is not there
            heappush(self._todo, number)

    def _again(self, number: int, error: Exception) -> None:
        self._deaths[number] += 1
        if self._deaths[number] == _DEATHS:
            raise DataError(
                f"{_DEATHS} workers died over {self._shards[number][0]} ({_first_line(error)}): leave that shard out, "
                "or give the nodes more memory; what is done is kept"
            )
        heappush(self._todo, number)


def _actor_class() -> type:
    """The class of the workers: a local one travels whole, also to a node that has another bitmar or none."""

    class Actor:
        def begin(self, version: str, pipes: bool, module: str, name: str, arguments: tuple[Any, ...]) -> Any:
            """(the node, its name, its bitmar's version, what is wrong or None, the work's identity)."""
            import platform

            import ray

            node = ray.get_runtime_context().get_node_id()
            util: Any = ray.util  # without types
            self.name = f"node {platform.node()} ({util.get_node_ip_address()})"
            try:
                from bitmar import __version__ as found
            except ImportError:
                found = ""
            if found != version:
                return node, self.name, found, None, ""
            from bitmar.data.cluster import build

            self.work, fault, identity = build(module, name, arguments, pipes, self.name)
            return node, self.name, version, fault, identity

        def run(self, shard: str, stem: str, known: frozenset[str], here: bool) -> Any:
            """(what is wrong or None, the chunks; None for a file that only the asking machine has)."""
            import ray

            from bitmar.data.cluster import compute

            return compute(self.work, shard, stem, known, here, self.name, ray.put)

    return Actor


def build(
    module: str, name: str, arguments: tuple[Any, ...], pipes: bool, node: str
) -> tuple[Any, BitMarError | None, str]:
    """On a node: the work, what is wrong with it there, its identity."""
    allow_pipes(pipes)
    try:
        work: Work = getattr(import_module(module), name)(*arguments)
    except BitMarError as error:
        return None, _on(node, error), ""
    except OSError as error:  # a disk without room for the model, a folder that may not be read
        return None, OutputError(f"{node}: {error}"), ""
    return work, None, work.identity


def compute(
    work: Work,
    shard: str,
    stem: str,
    known: Collection[str],
    here: bool,
    node: str,
    put: Callable[[list[Any]], Any],
) -> tuple[BitMarError | None, list[Any] | None]:
    """On a node: the results of a shard in chunks, each as `put` returns it."""
    if here and not _is_here(shard):
        return None, None
    chunks: list[Any] = []
    try:
        results = iter(work(shard, stem, known))
        while chunk := list(islice(results, _CHUNK)):
            chunks.append(put(chunk))
    except BitMarError as error:
        return _on(node, error), None
    except OSError as error:
        return OutputError(f"{node}, in {shard}: {error}"), None
    return None, chunks


def _on(node: str, error: BitMarError) -> BitMarError:
    return type(error)(f"{node}: {error}")


def _is_here(shard: str) -> bool:
    try:
        return Path(shard).is_file()
    except (OSError, ValueError):
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
