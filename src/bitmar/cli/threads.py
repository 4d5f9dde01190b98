"""Work on several cores whose results come in order: decoders and the native engine let other threads run."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_AHEAD = 4  # calls for each worker that may wait or be done before their turn


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(call: Callable[..., Result], workers: int, *arguments: Iterable[Any]) -> Iterator[Result]:
    """`map` by several threads. An error comes in its turn, and ends the rest; so does closing the iterator."""
    if workers <= 1:
        yield from map(call, *arguments)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for each in zip(*arguments, strict=True):
                waiting.append(pool.submit(call, *each))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
