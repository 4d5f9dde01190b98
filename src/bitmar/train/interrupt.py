"""Ctrl-C: finish the step, write a checkpoint, stop."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from bitmar.train.ranks import world_size


class StopOnInterrupt(TrainerCallback):
    """The first Ctrl-C asks for a checkpoint after the running step and stops; the second one stops at once.

    `asked` is True once it was pressed. With several processes, which would hear of it in different steps, and outside
    the main thread, where Python allows no handler, Ctrl-C does what it always does, and the last checkpoint remains.
    """

    def __init__(self, console: Console) -> None:
        self.console = console  # the bar's own, which makes room for a line
        self.asked = False
        self._process = os.getpid()
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if world_size() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        if os.getpid() != self._process:  # one that prepares batches: it goes on until it is told to stop
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        self.console.print("stopping after this step; press Ctrl-C again to stop at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Gives the signal back to whoever had it."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
