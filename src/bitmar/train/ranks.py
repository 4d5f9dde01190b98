"""One process or many (torchrun): who builds shared files, who writes, who waits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=1)  # rank 0 may extract features of a large set while the others wait


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
def main_first() -> Iterator[None]:
    """Lets rank 0 through the block, then the others, which find in the (shared) cache what it has built."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def _group() -> Any:
    """The process group, joined on the first call."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
