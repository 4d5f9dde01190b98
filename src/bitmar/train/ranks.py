"""One process or many (torchrun): who builds shared files, who writes, who waits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

PATIENCE = timedelta(days=1)  # rank 0 may extract features of a large set while the others wait
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the one process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Returns when all processes have come here."""
    if world_size() > 1:
        _group().wait_for_everyone()


@contextmanager
def main_first(cache: Path) -> Iterator[None]:
    """Lets the process that writes to this disk through the block, then the others, which find in `cache` what it has
    built."""
    first = writes_to(cache)
    if not first:
        wait()
    yield
    if first:
        wait()


def writes_to(folder: Path) -> bool:
    """True in rank 0, and where machines do not share `folder`, in the first process of each of them."""
    return is_main() if shared(folder) else int(os.environ.get("LOCAL_RANK", "0")) == 0


@cache
def shared(folder: Path) -> bool:
    """Whether all ranks see what rank 0 writes to `folder`. The first call tries it out, and is for all at once."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) == world_size():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".seen-by-{gather(uuid4().hex)[0]}"
    if is_main():
        token.touch()
    wait()
    seen = all(gather(token.exists()))
    if is_main():
        token.unlink()
    return seen


def gather(value: Any) -> list[Any]:
    """The value of every rank, in their order; anything that can be pickled, and small."""
    if world_size() == 1:
        return [value]
    import torch

    _group()
    found = [None] * world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def end_with_agent() -> None:
    """Under torchrun on Linux: killed when its agent is, so that it never trains on beside those that replace it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _group() -> Any:
    """The process group, joined on the first call."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
