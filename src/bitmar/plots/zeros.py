"""E_q, the share of zeros among ternary weights (paper, section 5.1): of every matrix, and over a run."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitmar.core.container import Container
from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.tensors import is_packed, linear_shapes
from bitmar.core.ternary import unpack2
from bitmar.export import read_config
from bitmar.plots.snapshots import run_stages

NOTED = "zero_fraction.json"
PAPER = 0.428  # where the paper's Figure 3 ends


def gaussian_zeros(threshold: float = 0.5) -> float:
    """E_q of Gaussian weights: the share below `threshold` times mean|W|, whatever their spread.

    0.31 at 0.5, which rounding W / mean|W| amounts to; 0.405 at 2/3.
    """
    return math.erf(threshold * math.sqrt(2 / math.pi) / math.sqrt(2))


@dataclass(frozen=True, slots=True)
class Matrix:
    """E_q of one matrix of N weights; before: at the start of training, None if it was not logged."""

    name: str
    weights: int
    zeros: float
    before: float | None = None

    @property
    def part(self) -> str:
        """The part of the network: "encoder", "decoder", "vision tower" or "other"."""
        found = re.match(r"model\.(encoder|decoder|vision_tower)\.", self.name)
        return found.group(1).replace("_", " ") if found else "other"

    @property
    def family(self) -> str:
        """Which of a block's matrices it is, or its own name."""
        return self.name.removeprefix("model.") if self.part == "other" else self.name.rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        """Number of its block."""
        found = re.search(r"\.layers\.(\d+)\.", self.name)
        return int(found.group(1)) if found else None


def zeros_of_model(container: Container) -> list[Matrix]:
    """Every ternary matrix of a packed model. None: ConfigError."""
    found = []
    for name, (_, width) in linear_shapes(container.config).items():
        if is_packed(name, container.config):
            codes = unpack2(container.tensors[name], width)
            found.append(Matrix(name.removesuffix(".weight"), codes.size, float(np.mean(codes == 0))))
    if not found:
        raise ConfigError(f"{container.path} has no ternary weights: it was trained with quantization: none")
    return found


def zeros_of_run(run: Path, only: str | None = None) -> list[Matrix]:
    """Every ternary matrix as the last stage of a run noted it, none if no stage did; before: in the first stage."""
    noted = [stage.folder for stage in run_stages(run, only) if (stage.folder / NOTED).is_file()]
    if not noted:
        return []
    shapes = linear_shapes(read_config(noted[-1]))
    try:
        texts = [(folder / NOTED).read_text(encoding="utf-8") for folder in (noted[0], noted[-1])]
        first, last = (json.loads(text)["layers"] for text in texts)
        return [
            Matrix(name, math.prod(shapes[f"{name}.weight"]), zeros["now"], first.get(name, zeros)["initial"])
            for name, zeros in last.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{noted[-1] / NOTED} is damaged: {error!r}") from error
