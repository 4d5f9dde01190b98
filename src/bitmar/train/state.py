"""Callbacks whose state travels in the checkpoints."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState


class StatefulCallback(TrainerCallback, ExportableState):
    """`state_dict()` goes into trainer_state.json, and `load_state_dict()` gets it back when a run resumes.

    transformers would rather build the callback anew from its arguments; ours hold models and cannot be written down.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state to keep, as JSON."""
        raise NotImplementedError

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues from what an earlier `state_dict()` gave."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """`ExportableState`'s hook."""
        return {"args": {}, "attributes": self.state_dict()}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A checkpoint from before this callback was switched on knows nothing of it.
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.load_state_dict(saved["attributes"])
