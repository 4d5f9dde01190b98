"""The paper's adaptive controller (section 3.4.2): when alignment falls, change for a while what is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from bitmar.train.state import StatefulCallback

SPAN = 200  # steps of the moving average
DROP = 0.12  # fall from the recent maximum that calls for action
COOLDOWN = 800  # steps between two interventions
DURATION = 1500  # steps that one lasts
UPWEIGHT = 2.0  # factor on the contrastive loss; the paper gives none
ACTIONS = ("freeze_text", "freeze_vision", "upweight")


@dataclass
class ControllerState:
    ema: float | None = None
    maximum: float = -1.0
    last: int = -COOLDOWN
    action: str | None = None
    until: int = 0


class AlignmentController:
    """Watches the cosine of text and picture, step by step. Pure logic: it says what to do and touches nothing.

    `observe(step, cosine)` returns the action in force at that step, or None; cosine is None in a step without
    pictures. The maximum is that of the averages since the last intervention ended: one bad period is answered once.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.state = ControllerState()

    def observe(self, step: int, cosine: float | None) -> str | None:
        s = self.state
        if cosine is not None:
            s.ema = cosine if s.ema is None else s.ema + (cosine - s.ema) * 2 / (SPAN + 1)
        if s.ema is None:
            return None
        if s.action is not None:
            if step < s.until:
                return s.action
            s.action, s.maximum = None, s.ema
        s.maximum = max(s.maximum, s.ema)
        if s.maximum - s.ema > DROP and step - s.last >= COOLDOWN:
            s.action = str(np.random.default_rng((self.seed, step)).choice(ACTIONS))
            s.last, s.until = step, step + DURATION
        return s.action


class ControllerCallback(StatefulCallback):
    """Applies the controller's decisions to a `BitMarForCausalLM`; they survive a resume."""

    def __init__(self, model: Any, seed: int = 0) -> None:
        self.model = model
        self.controller = AlignmentController(seed)
        self.weight = model.contrastive_weight
        self.cosine: float | None = None  # of this step's pictures, the same on all ranks; the trainer sets it

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.controller.state)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.controller.state = ControllerState(**saved)
        self._set_weight()  # the first loss comes before the first decision

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        before = self.controller.state.action
        action = self.controller.observe(state.global_step, self.cosine)
        self.cosine = None
        if action != before:
            self._set_weight()
            if state.is_world_process_zero:
                Console(stderr=True).print(f"controller: {action or 'back to normal'} at step {state.global_step}")
        frozen = {"freeze_text": ("encoder",), "freeze_vision": ("vision", "vision_tower")}.get(action or "", ())
        # Gradients are dropped instead of requires_grad being switched: data-parallel hooks stay as they are.
        for name in frozen:
            module = getattr(self.model.model, name)
            for parameter in module.parameters() if module is not None else ():
                parameter.grad = None

    def _set_weight(self) -> None:
        upweighted = self.controller.state.action == "upweight"
        self.model.contrastive_weight = self.weight * (UPWEIGHT if upweighted else 1.0)
