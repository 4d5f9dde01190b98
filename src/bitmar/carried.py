"""The parts of a packed model that a checkpoint lacks: vision tower, recall's calibration, confidence of captions.

`unpack` leaves them beside the checkpoint, in `packed.safetensors`, and `export` puts them back.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bitmar.core.config import TowerConfig, tower_from_dict
from bitmar.core.container import Container
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.files import write_atomically
from bitmar.core.sealed import Tensors
from bitmar.core.strict_json import parse_json
from bitmar.core.tensors import expected_tensors

CARRIED = "packed.safetensors"
TOWER = "model.vision_tower."
_FORMAT = "bitmar-carried"
_OF_THE_FEATURES = ("size", "mean", "std", "resize", "feature_hash")


@dataclass(frozen=True)
class Carried:
    """`tensors` are as a `.bitmar` file has them; `tower` describes those of the vision tower, if there is one.

    vision: how a photo becomes the tower's input, as in `Container`.
    """

    tensors: Tensors
    tower: TowerConfig | None
    vision: dict[str, Any]

    @classmethod
    def of(cls, container: Container) -> Carried:
        """Of an open `.bitmar` file."""
        trained = expected_tensors(dataclasses.replace(container.config, vision_tower=None))
        rest = {name: tensor for name, tensor in container.tensors.items() if name not in trained}
        return cls(rest, container.config.vision_tower, container.vision)

    def save(self, folder: Path) -> None:
        """Write `packed.safetensors`, or take away that of another model where there is nothing to carry."""
        path = folder / CARRIED
        if not self.tensors:
            path.unlink(missing_ok=True)
            return
        tower = None if self.tower is None else self.tower.to_dict()
        about = {"format": _FORMAT, "vision_tower": json.dumps(tower), "vision": json.dumps(self.vision)}
        write_atomically(path, save(dict(self.tensors), about))

    def without_tower(self) -> Tensors:
        """The other tensors."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(TOWER)}

    def check(self, vision: Mapping[str, Any], path: Path) -> None:
        """Raises FormatError where a checkpoint's preprocessing says that its features are of another tower."""
        for name in _OF_THE_FEATURES:
            if self.vision.get(name) != vision.get(name):
                raise FormatError(
                    f"{path} was unpacked from a model of other features ({name} {self.vision.get(name)!r:.40}, the "
                    f"checkpoint has {vision.get(name)!r:.40}): delete it, and name the tower with --tower"
                )


def read_carried(folder: Path) -> Carried | None:
    """Read the parts that `unpack` left in a checkpoint; None without any. Raises FormatError for a damaged file."""
    path = folder / CARRIED
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise FormatError(f"{path} is another kind of file; `bitmar unpack` writes it: delete it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        tower, vision = parse_json(about["vision_tower"]), parse_json(about["vision"])
        return Carried(tensors, None if tower is None else tower_from_dict(tower), vision)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, ConfigError) as error:
        raise FormatError(f"{path} is damaged ({error}): unpack the model again") from error
