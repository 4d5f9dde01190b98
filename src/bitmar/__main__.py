"""`python -m bitmar`: the command line, also where a launcher such as torchrun wants a module."""

from __future__ import annotations

import os
import signal
from typing import Any


def _stop(*_: Any) -> None:
    """End the process at once: nothing was done yet, and an exception may get lost in the middle of an import."""
    os.write(2, b"stopped\n")
    os._exit(130)


def main() -> None:
    """Entry point of the `bitmar` command."""
    before = signal.signal(signal.SIGINT, _stop)
    from bitmar.cli import main as run

    run(on_begin=lambda: signal.signal(signal.SIGINT, before))


if __name__ == "__main__":
    main()
