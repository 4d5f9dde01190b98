"""Does fine-tuning learn from real data? BoolQ, and as a control a task on real text that any text model can learn.

python benchmarks/finetune.py --model runs/default/self_critical --json out/finetune.json

BoolQ's validation file, the only part at hand, is split into training (70 %), validation (10 %, chooses the epoch) and
test (20 %). The control: was a line said to a child, or on the telephone, or is it from a fairy tale or a lexicon?
Two minutes on one core; inputs are cut at 64 tokens and lines are few, so the figures say whether it learns, not how
well it can.
"""

from __future__ import annotations

import json as json_module
import zipfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from _machine import SHARED, publish, run, skip_without_shared_data

from bitmar.console import say
from bitmar.data.text import Domain
from bitmar.train.finetune import Protocol, finetune
from bitmar.train.tasks import Task, find_task, own_task

BOOLQ = SHARED / "eval" / "lm_eval" / "boolq.jsonl.zip"
TEXT = SHARED / "text"
DOMAINS = ("childes", "switchboard", "fairytales", "wikipedia_leads")
DOMAIN_LINES, WORDS = 150, 20  # of each domain, and of each line
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}


def main(
    model: Annotated[Path, typer.Option(help="A checkpoint folder.")],
    out: Annotated[Path | None, typer.Option(help="Keep the fine-tuned models here.")] = None,
    boolq: Annotated[Path, typer.Option(help="BoolQ as lm_eval has it: query, choices, gold.")] = BOOLQ,
    lines: Annotated[int, typer.Option(help="Of BoolQ; it has 3,270.")] = 1500,
    max_length: Annotated[int, typer.Option(help="Longest input in tokens.")] = 64,
    epochs: Annotated[int, typer.Option(help="Passes over the training lines.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="The pipeline has 3e-5.")] = 3e-4,
    json: Annotated[Path | None, typer.Option(help="Also write the figures here.")] = None,
) -> None:
    """Fine-tune on BoolQ and on the control, and measure on lines that chose nothing."""
    skip_without_shared_data(boolq)
    protocol = Protocol(learning_rate=learning_rate, batch=32, epochs=epochs, max_length=max_length, threads=1)
    figures: dict[str, Any] = {"model": str(model)}
    with TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        tasks: list[tuple[Task, Iterable[dict[str, Any]]]] = [
            (find_task("boolq"), islice(boolq_lines(boolq), lines)),
            (own_task("domain", ["text"]), domain_lines()),
        ]
        for task, found in tasks:
            files = split(found, folder / f"{task.name}-data")
            report = finetune(task, model, folder / task.name, protocol=protocol, **files)
            figures[task.name] = {
                "items": report.items,
                **{name: [round(100 * x, 1) for x in (e.value, e.low, e.high)] for name, e in report.mean.items()},
                "majority": round(100 * report.majority["accuracy"], 1),
                "above_majority": report.above_majority,
                "valid by epoch": [round(100 * entry["accuracy"], 1) for entry in report.seeds[0].history],
            }
            say(f"{task.name}: {'above' if report.above_majority else 'not above'} the commonest class")
    publish("finetune", figures, data=f"{boolq}; {', '.join(DOMAINS)} of {TEXT}", out=json)


def boolq_lines(path: Path) -> Iterable[dict[str, Any]]:
    """In the pipeline's form."""
    with zipfile.ZipFile(path) as archive:
        for line in archive.read("boolq.jsonl").splitlines():
            values = json_module.loads(line)
            passage, _, question = values["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
            yield {"question": question, "passage": passage, "label": values["gold"]}


def domain_lines() -> Iterable[dict[str, Any]]:
    """The same number of each domain, cut to one length in words, so that it is not the length that tells."""
    for domain in DOMAINS:
        documents = (text.split() for text in Domain.of(str(TEXT / f"{domain}.txt.xz")).documents())
        for words in islice((words for words in documents if len(words) > WORDS), DOMAIN_LINES):
            yield {"text": " ".join(words[:WORDS]), "label": domain}


def split(lines: Iterable[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Shuffled by a fixed seed into train, valid and test."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = list(lines)
    order = np.random.default_rng(0).permutation(len(kept))
    ends = np.cumsum([round(share * len(kept)) for share in SHARES.values()])[:-1]
    files = {}
    for name, places in zip(SHARES, np.split(order, ends), strict=True):
        files[name] = folder / f"{name}.jsonl"
        text = "".join(json_module.dumps(kept[i]) + "\n" for i in places)
        files[name].write_text(text, encoding="utf-8")
    return files


if __name__ == "__main__":
    run(main)
