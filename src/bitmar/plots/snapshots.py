"""A training run as the models that it has left: checkpoints from the first to the last, read without PyTorch."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bitmar.api import BitMar, load
from bitmar.core.errors import ConfigError, FormatError, nearest
from bitmar.export import export_checkpoint, read_config
from bitmar.train.runs import Stage, is_run, read_log, stages


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint folder. step: of its stage."""

    stage: str
    step: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.stage}, step {self.step:,}"

    def open(self) -> BitMar:
        """The model as `bitmar export` would pack it. Raises FormatError."""
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return load(export_checkpoint(self.folder, Path(folder) / "model.bitmar"))


def run_stages(run: Path, only: str | None = None) -> list[Stage]:
    """The stages of a run in their order: the finished ones, or all while none is; or the one that is named `only`.

    Raises FormatError for a folder that is no run, ConfigError for an unknown stage.
    """
    if not is_run(run):
        raise FormatError(f"{run} is no training run: name the folder that `bitmar train` writes its stages to")
    found = stages(run)
    if only is not None:
        names = [stage.folder.name for stage in found]
        if only not in names:
            raise ConfigError(f"{run} has no stage {only!r}{nearest(only, names)}; it has {', '.join(names)}")
        return [stage for stage in found if stage.folder.name == only]
    return [stage for stage in found if stage.finished] or found


def snapshots(run: Path, only: str | None = None) -> list[Snapshot]:
    """The checkpoints of models that a run has kept, the earliest first. None at all: FormatError."""
    found = [snapshot for stage in run_stages(run, only) for snapshot in _of_stage(stage)]
    if not found:
        raise FormatError(f"{run} holds no checkpoint of a model yet: wait for its first one")
    return found


def _of_stage(stage: Stage) -> list[Snapshot]:
    """The snapshots saved during the stage, then its result if that differs."""
    name, kept = stage.folder.name, dict[int, Path]()
    for folder in stage.folder.glob("checkpoint-*"):
        if folder.name.rpartition("-")[2].isdecimal() and _is_model(folder):
            kept[int(folder.name.rpartition("-")[2])] = folder
    if _is_model(stage.folder):
        kept.setdefault(stage.step, stage.folder)
    return [Snapshot(name, step, kept[step]) for step in sorted(kept)]


def _is_model(folder: Path) -> bool:
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return about.get("model_type") == "bitmar" and (folder / "model.safetensors").is_file()


@dataclass(frozen=True, slots=True)
class Course:
    """Some logged quantities, over all steps of the stages one after the other.

    steps: (n,), counted through. columns: by name, (n,), None where a line does not say it. begins: (step, stage).
    """

    steps: list[int]
    columns: dict[str, list[float | None]]
    begins: list[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.steps)


def course(run: Path, names: tuple[str, ...], only: str | None = None) -> Course:
    """The lines of a run's logs that say at least one of `names`."""
    steps: list[int] = []
    columns: dict[str, list[float | None]] = {name: [] for name in names}
    begins: list[tuple[int, str]] = []
    before = 0
    for stage in run_stages(run, only):
        lines = [line for line in read_log(stage.folder) if any(name in line for name in names)]
        if not lines:
            continue
        begins.append((before, stage.folder.name))
        for line in lines:
            steps.append(before + int(line["step"]))
            for name in names:
                columns[name].append(line.get(name))
        before = steps[-1]
    return Course(steps, columns, begins)


def untrained(snapshot: Snapshot) -> BitMar | None:
    """A new model of the snapshot's configuration, what training starts from (seed 0); None where PyTorch is not."""
    try:
        import torch
        from safetensors.torch import save_file

        from bitmar.model.configuration_bitmar import BitMarConfig
        from bitmar.model.modeling_bitmar import BitMarForCausalLM
    except ModuleNotFoundError:
        return None
    torch.manual_seed(0)
    model = BitMarForCausalLM(BitMarConfig(**read_config(snapshot.folder).to_dict()))
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for file in snapshot.folder.glob("*.json"):
            shutil.copyfile(file, folder / file.name)
        save_file(model.state_dict(), folder / "model.safetensors")
        return Snapshot("untrained", 0, folder).open()
