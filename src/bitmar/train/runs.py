"""The folder of a training run: a folder per stage, and the packed model once the last one is finished."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitmar.core.errors import FormatError

FINISHED, LOG, WEIGHTS = "finished.json", "log.jsonl", "model.safetensors"


@dataclass(frozen=True, slots=True)
class Stage:
    """loss: the last one logged, None before the first."""

    folder: Path
    finished: bool
    step: int
    loss: float | None

    @property
    def is_model(self) -> bool:
        """Whether it left a whole model; a distilled tower is none."""
        config = self.folder / "config.json"
        return config.is_file() and read_json(config).get("model_type") == "bitmar"


def is_run(folder: Path) -> bool:
    """Whether this is a run: no checkpoint itself, but with stages in it."""
    return folder.is_dir() and not (folder / "config.json").is_file() and bool(stages(folder))


def stages(run: Path) -> list[Stage]:
    """The stages that have begun, in the order in which they ended; those still open come last."""
    found = [folder for folder in sorted(run.iterdir()) if (folder / FINISHED).is_file() or (folder / LOG).is_file()]

    def ended(folder: Path) -> float:
        path = folder / FINISHED
        return path.stat().st_mtime if path.is_file() else float("inf")

    return [_stage(folder) for folder in sorted(found, key=ended)]


def _stage(folder: Path) -> Stage:
    step, loss = 0, None
    for entry in read_log(folder):
        step, loss = entry.get("step", step), entry.get("loss", loss)
    return Stage(folder, (folder / FINISHED).is_file(), step, loss)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a stage's log.jsonl, whose last may still be being written; none if it has not begun."""
    path = folder / LOG
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def last_model(run: Path) -> Path:
    """The checkpoint folder of the last finished stage that trained a model. None is finished: FormatError."""
    models = [stage for stage in stages(run) if stage.finished and stage.is_model]
    if not models:
        names = ", ".join(stage.folder.name for stage in stages(run))
        raise FormatError(f"no stage of {run} that trains a model is finished ({names}): go on with `bitmar train`")
    return models[-1].folder


def run_card(run: Path) -> dict[str, Any] | None:
    """The model card that the run gave its packed model, if it has packed one."""
    from bitmar.core.container import open_container

    packed = run / "model.bitmar"
    return open_container(packed).card if packed.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Anything else: FormatError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is no JSON object")
    return value


def check_checkpoint(folder: str | Path) -> Path:
    """The weights' file of a checkpoint folder. Raises FormatError for anything else."""
    folder = Path(folder)
    if folder.suffix == ".bitmar":
        raise FormatError(
            f"{folder} is packed for use; fine-tuning needs the checkpoint folder it was made from, or "
            f"`bitmar unpack {folder} FOLDER`"
        )
    for name in ("config.json", WEIGHTS, "tokenizer.json"):
        if not (folder / name).is_file():
            raise FormatError(f"{folder} is no checkpoint folder, it has no {name}: give a stage of `bitmar train`")
    return folder / WEIGHTS
