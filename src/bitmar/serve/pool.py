"""The engine's threads, and the short queue before them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from bitmar.serve.errors import ApiError, busy

T = TypeVar("T")


class Stopped(Exception):
    """Nobody waits for this work any more."""


class Done(Generic[T]):
    """The last item of a stream: what the generator returned."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class Pool:
    """Runs work in `threads` threads, lets `queue` more wait, and refuses the rest (429)."""

    def __init__(self, threads: int, queue: int) -> None:
        self._most, self.held, self._lock = threads + queue, 0, threading.Lock()
        self._executor = ThreadPoolExecutor(threads, "engine")

    def check(self) -> None:
        """Raise ApiError (429) where too many wait already."""
        if self.held >= self._most:
            raise busy(f"{self.held} requests are before this one, more than this server keeps waiting")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Raises ApiError (429) where too many wait already."""
        with self._lock:
            self.check()
            self.held += 1
        future = self._executor.submit(work)
        future.add_done_callback(self._release)  # also when it was cancelled before its turn
        return future

    def _release(self, _: Future[T]) -> None:
        with self._lock:
            self.held -= 1

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`. Work that has begun runs to its end even if nobody waits any more."""
        return await asyncio.wrap_future(self.submit(work))

    async def stream(self, begin: Callable[[], Generator[str, None, T]]) -> AsyncGenerator[str | Done[T], None]:
        """The pieces as they come, then `Done`. Ends early, between two pieces, where nobody waits any more."""
        loop, items, stop = asyncio.get_running_loop(), asyncio.Queue[str | None](), threading.Event()

        def give(item: str | None) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(items.put_nowait, item)

        def work() -> T:
            pieces = begin()
            while not stop.is_set():
                try:
                    give(next(pieces))
                except StopIteration as end:
                    value: T = end.value
                    return value
            raise Stopped

        future = self.submit(work)
        future.add_done_callback(lambda _: give(None))
        try:
            while (item := await items.get()) is not None:
                yield item
            yield Done(self._result(future))
        finally:
            stop.set()
            future.cancel()

    @staticmethod
    def _result(future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            raise ApiError(503, "the server is shutting down", code="shutting_down") from None

    async def finish(self, begin: Callable[[], Generator[str, None, T]]) -> T:
        """The generator's return value; stopped like `stream` if nobody waits any more."""
        async with aclosing(self.stream(begin)) as items:
            async for item in items:
                if isinstance(item, Done):
                    return item.value
        raise AssertionError("a stream ends in Done")

    def close(self) -> None:
        """Wait for what is running; what was waiting is cancelled."""
        self._executor.shutdown(cancel_futures=True)
