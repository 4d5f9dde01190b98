"""Fine-tuning on (Super)GLUE and on one's own data, after BabyLM 2025's pipeline (its `finetune` folder).

Every weight is trained, by AdamW at 3e-5 with 6 % warm-up and a cosine to a tenth, for a fixed number of epochs; the
epoch that does best on the validation file is kept. docs/finetuning.md says where this differs from the pipeline.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from bitmar.console import progress
from bitmar.core.errors import ConfigError, DataError
from bitmar.core.files import write_atomically
from bitmar.data.sources import OnBad
from bitmar.train.classifier import Classifier, Row
from bitmar.train.finetune_report import (
    REPORT,
    FinetuneReport,
    SeedResult,
    measure,
    point_metrics,
    seed_intervals,
)
from bitmar.train.ranks import world_size
from bitmar.train.runs import check_checkpoint
from bitmar.train.settings import Training
from bitmar.train.state import StatefulCallback
from bitmar.train.tasks import Example, Label, LineFile, Task, data_files, find_labels, find_task, read_examples
from bitmar.train.trainer import BatchTrainer, checkpoints, reporting_full_disk

PREDICTIONS, RESULT, BEST, PROTOCOL = "predictions.jsonl", "result.json", "best.safetensors", "protocol.json"
_STATES = "states-{}.safetensors"  # of a frozen body, by split
_ADVICE = "Free some space and run the same command again to resume"


@dataclass(frozen=True)
class Protocol:
    """Numbers of a fine-tuning; the defaults are the pipeline's. batch, epochs: None takes the task's.

    lines: train on so many lines, the same for every seed; None: on all. frozen: train the head alone. threads: CPU
    threads (0 = all).
    """

    learning_rate: float = 3e-5
    batch: int | None = None
    epochs: int | None = None
    max_length: int = 512
    pooling: str = "last"
    weight_decay: float = 0.01
    warmup: float = 0.06
    lines: int | None = None
    frozen: bool = False
    threads: int = 0

    def of(self, task: Task) -> Protocol:
        """With the task's own numbers filled in. Raises ConfigError for what makes no sense."""
        filled = {**asdict(self), "batch": self.batch or task.batch, "epochs": self.epochs or task.epochs}
        for name in ("batch", "epochs", "lines"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise ConfigError(f"{name} must be at least 1, not {given}")
        return Protocol(**filled)

    def training(self, batches: int, seed: int) -> Training:
        """As the trainer wants it; batches: of one epoch."""
        steps = batches * (self.epochs or 1)
        return Training(
            steps=steps,
            learning_rate=self.learning_rate,
            schedule="cosine",
            warmup_steps=int(self.warmup * steps),
            eta_min=0.1,
            optimizer="adamw",
            weight_decay=self.weight_decay,
            clip=0.0,
            precision="fp32",
            workers=0,
            threads=self.threads,
            log_every=min(50, batches),
            save_every=1000 if self.frozen else min(200, batches),
            keep=1,
            seed=seed,
        )


@dataclass(frozen=True)
class Lines:
    """The data of a run, by split; targets: places in `labels` (n,). measured: the split that the report is about."""

    task: Task
    labels: tuple[Label, ...]
    examples: dict[str, list[Example]]
    targets: dict[str, np.ndarray]
    skipped: dict[str, int]

    @property
    def measured(self) -> str:
        return "test" if "test" in self.examples else "valid"

    def drawn(self, count: int | None) -> Lines:
        """With so many of the training lines, in their order: a draw that is the same for every seed."""
        if count is None or count >= len(self.examples["train"]):
            return self
        picked = np.sort(np.random.default_rng(0).choice(len(self.examples["train"]), count, replace=False))
        train = [self.examples["train"][i] for i in picked]
        missing = set(range(len(self.labels))) - set(self.targets["train"][picked])
        if missing:
            raise ConfigError(f"{count} lines have none of the label {self.labels[min(missing)]!r}: take more")
        targets = {**self.targets, "train": self.targets["train"][picked]}
        return replace(self, examples={**self.examples, "train": train}, targets=targets)

    @classmethod
    def read(cls, task: Task, files: Mapping[str, LineFile], on_bad: OnBad | None = None) -> Lines:
        """Raises DataError for a file or a class that is missing."""
        bad: Counter[str] = Counter()
        examples: dict[str, list[Example]] = {}
        for split, file in files.items():

            def report(where: str, reason: str, split: str = split) -> None:
                bad[split] += 1
                if on_bad is not None:
                    on_bad(where, reason)

            examples[split] = read_examples(file, task, report)
        labels = find_labels(task, examples["train"], [e for split in examples for e in examples[split]])
        place = {label: i for i, label in enumerate(labels)}
        targets = {
            split: np.array([place[e.label] for e in found if e.label is not None]) for split, found in examples.items()
        }
        return cls(task, labels, examples, targets, {split: bad[split] for split in files})


class ShuffledRows:
    """Batch k of an endless walk through the examples: each once an epoch, the rest that fills no batch left out."""

    def __init__(self, model: Classifier, rows: Sequence[Row], targets: np.ndarray, batch: int, seed: int):
        self._model, self._rows, self._targets = model, rows, targets
        self._batch, self._seed = min(batch, len(rows)), seed

    def __len__(self) -> int:
        """Batches of one epoch."""
        return len(self._rows) // self._batch

    def __getitem__(self, k: int) -> dict[str, Any]:
        epoch, place = divmod(k, len(self))
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._rows))
        picked = order[place * self._batch : (place + 1) * self._batch]
        return {**self._model.pad([self._rows[i] for i in picked]), "labels": self._targets[picked]}


class BestEpoch(StatefulCallback):
    """At the end of every epoch (`every` steps): metrics on the validation file, and the weights if they are better."""

    def __init__(self, model: Classifier, rows: Sequence[Row], targets: np.ndarray, every: int, path: Path) -> None:
        self.model, self.rows, self.targets, self.every, self.path = model, rows, targets, every, path
        self.history: list[dict[str, float]] = []
        self.epoch = 0
        self.on_progress: Callable[[int], None] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "epoch": self.epoch}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.history, self.epoch = list(saved["history"]), saved["epoch"]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.every:
            return
        predicted = self.model.probabilities(self.rows, self.on_progress).argmax(-1).numpy()
        found = point_metrics(self.targets, predicted, len(self.model.labels))
        metric = self.model.task.metric
        best = max((entry[metric] for entry in self.history), default=-np.inf)
        self.history.append(found)
        if found[metric] > best:
            self.epoch = len(self.history)
            self.model.write_weights(self.path)
        control.should_log = True


class FinetuneTrainer(BatchTrainer):
    """Adds to `BatchTrainer` the validation file: a bar while it is read, its metrics in the log."""

    def __init__(self, *args: Any, best: BestEpoch, **kwargs: Any) -> None:
        self.best = best
        super().__init__(*args, terms=lambda output: {"accuracy": output["accuracy"]}, callbacks=[best], **kwargs)
        self._validation: Any = None
        best.on_progress = self._show

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        reported = sum("valid_accuracy" in entry for entry in self.state.log_history)
        if "loss" in logs and reported < len(self.best.history):
            logs |= {f"valid_{name}": value for name, value in self.best.history[-1].items()}
        super().log(logs, start_time)

    def _show(self, done: int) -> None:
        bar, total = self._display.bar, len(self.best.rows)
        if self._validation is None:
            self._validation = bar.add_task("validation", total=total)
        bar.update(self._validation, completed=done)
        if done == total:
            bar.remove_task(self._validation)
            self._validation = None


def finetune(
    task: str | Task,
    model: str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    train: str | Path | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    seeds: int = 1,
    seed: int = 42,
    protocol: Protocol | None = None,
    on_bad: OnBad | None = None,
) -> FinetuneReport:
    """Fine-tunes the checkpoint folder `model` on a task, once per seed, and leaves everything in `out`.

    Args:
        task: one of `TASKS`, or a definition, of `own_task` for one. data: the pipeline's folder, or
            its .zip, with TASK.train.jsonl and TASK.valid.jsonl; or train, valid: the two files.
        test: a file that is measured instead of the validation file, which then only chooses the epoch.
        seeds: how many, counted from `seed`. on_bad: gets FILE:LINE and the reason for every line that is left out.
    Returns:
        The report, which is also `out/report.json`; each seed's folder `out/seed-N` has the model, its log, and
        predictions.jsonl. Finished runs are not repeated; stopped ones go on from their last checkpoint.
    Raises:
        ConfigError, DataError, FormatError, KeyboardInterrupt (Ctrl-C, after a checkpoint).
    """
    task, folder, out = find_task(task) if isinstance(task, str) else task, Path(model), Path(out)
    protocol = (protocol or Protocol()).of(task)
    if seeds < 1 or seed < 0:
        raise ConfigError(f"seeds is a number from 1 and seed one from 0, not {seeds} and {seed}")
    if world_size() > 1:
        raise ConfigError("fine-tuning runs in one process: start it without torchrun, a process per task")
    files = data_files(task, data, train, valid, test)
    lines = Lines.read(task, files, on_bad).drawn(protocol.lines)
    hashes = {split: sha256(file.read()) for split, file in files.items()}
    hashes = {"model": sha256(check_checkpoint(folder).read_bytes()), **hashes}
    _claim(out, {"task": asdict(task), **asdict(protocol), "files": hashes})
    classes, truth = len(lines.labels), lines.targets[lines.measured]
    common = int(np.bincount(lines.targets["train"]).argmax())
    majority = point_metrics(truth, np.full_like(truth, common), classes)

    results = [_run_seed(lines, folder, out / f"seed-{n}", protocol, n) for n in range(seed, seed + seeds)]
    predictions = [_read_predictions(out / f"seed-{result.seed}", lines.labels) for result in results]
    report = FinetuneReport(
        task=task.name,
        model=str(model),
        split=lines.measured,
        items=len(truth),
        trained=len(lines.examples["train"]),
        labels=list(lines.labels),
        metric=task.metric,
        mean=measure(truth, predictions, classes),
        over_seeds=seed_intervals([result.metrics for result in results]),
        majority_label=lines.labels[common],
        majority=majority,
        paper=task.paper,
        seeds=results,
        skipped=lines.skipped,
        files=hashes,
        protocol=asdict(protocol),
    )
    write_atomically(out / REPORT, json.dumps(report.to_dict(), indent=2).encode())
    return report


def sha256(content: bytes) -> str:
    """Of a file's content."""
    return hashlib.sha256(content).hexdigest()


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """A folder belongs to one model, one task, one protocol: the seeds of two would mix."""
    settings = json.loads(json.dumps({name: value for name, value in settings.items() if name != "threads"}))
    path = out / PROTOCOL
    if path.is_file() and any([*out.glob("seed-*"), *out.glob(_STATES.format("*"))]):
        before = _read_json(path)
        for name, value in settings.items():
            if before.get(name) != value:
                was, now = str(before.get(name)), str(value)
                detail = f" ({was}, now {now})" if len(was + now) < 40 else ""
                raise ConfigError(
                    f"{out} holds a run whose {name} is not the same{detail}: choose another folder, or delete that one"
                )
    with reporting_full_disk(out, _ADVICE):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=2).encode())


def _run_seed(lines: Lines, checkpoint: Path, out: Path, protocol: Protocol, seed: int) -> SeedResult:
    """One seed, from its last checkpoint if there is one; not at all if it is finished."""
    if (out / RESULT).is_file():
        return SeedResult.from_dict(_read_json(out / RESULT))
    task, targets = lines.task, lines.targets
    torch.manual_seed(seed)  # of the head
    model = Classifier.from_checkpoint(
        checkpoint, task, lines.labels, pooling=protocol.pooling, max_length=protocol.max_length
    )
    rows: dict[str, Sequence[Row]] = {
        split: model.encode([e.texts for e in examples]) for split, examples in lines.examples.items()
    }
    if protocol.frozen:
        model.freeze()
        rows = _states(model, rows, out.parent)
    source = ShuffledRows(model, rows["train"], targets["train"], protocol.batch or task.batch, seed)
    out.mkdir(parents=True, exist_ok=True)
    best = BestEpoch(model, rows["valid"], targets["valid"], len(source), out / BEST)
    settings = protocol.training(len(source), seed)
    trainer = FinetuneTrainer(model, source, settings, out, name=f"{task.name}, seed {seed}", best=best)
    trainer.train_or_resume()
    model.load_state_dict(load_file(out / BEST))
    split = lines.measured
    found = model.probabilities(rows[split])
    metrics = measure(targets[split], [found.argmax(-1).numpy()], len(lines.labels))
    return _finish(model, out, lines.examples[split], found, SeedResult(seed, best.epoch, metrics, best.history))


def _states(model: Classifier, rows: Mapping[str, Sequence[Row]], folder: Path) -> dict[str, Sequence[Row]]:
    """The states of all lines, which every seed and a run that goes on have in common: a file for each split."""
    found: dict[str, Sequence[Row]] = {}
    with progress() as bar:
        for split, each in rows.items():
            path, task = folder / _STATES.format(split), bar.add_task(f"states of {split}", total=len(each))
            if not path.is_file():
                states = model.states(each, partial(_advance, bar, task))
                with reporting_full_disk(path, _ADVICE):
                    write_atomically(path, save({"states": states}))
            found[split] = list(load_file(path)["states"])
    return found


def _advance(bar: Any, task: Any, done: int) -> None:
    bar.update(task, completed=done)


def _finish(
    model: Classifier, out: Path, examples: Sequence[Example], probabilities: torch.Tensor, result: SeedResult
) -> SeedResult:
    """Writes the model and the predictions, the result last, and clears away what only served resuming."""
    written = ""
    for example, row in zip(examples, probabilities, strict=True):
        best = int(row.argmax())
        line = {"id": f"{model.task.name}_{example.number}", "pred": model.labels[best], "label": example.label}
        written += json.dumps({**line, "probability": round(row[best].item(), 5)}) + "\n"
    with reporting_full_disk(out, _ADVICE):
        model.save(out)
        write_atomically(out / PREDICTIONS, written.encode())
        write_atomically(out / RESULT, json.dumps(asdict(result), indent=2).encode())
    for folder in checkpoints(out):
        shutil.rmtree(folder, ignore_errors=True)
    (out / BEST).unlink(missing_ok=True)
    return result


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete {path.parent} and run again") from error
    return dict(values)


def _read_predictions(folder: Path, labels: Sequence[Label]) -> np.ndarray:
    place = {label: i for i, label in enumerate(labels)}
    lines = (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()
    return np.array([place[json.loads(line)["pred"]] for line in lines])
