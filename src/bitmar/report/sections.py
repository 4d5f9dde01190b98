"""The sections of a report, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitmar.core.errors import ConfigError, nearest
from bitmar.report import health, language, memory, pictures
from bitmar.report.job import BASELINE, OURS, PEER, TEXT, Job


@dataclass(frozen=True, slots=True)
class Section:
    """files: what it reads; raises Absent where it cannot be measured. run: its result, ready for JSON.

    roles: whom it measures. command: the one that gives the same figures; {data} and so on are filled in.
    seconds: of all of the reference data on two idle cores, of which `fixed` do not shrink with a limit; items: how
    many there are.
    """

    name: str
    title: str
    files: Callable[[Job], list[Path]]
    run: Callable[[Job], dict[str, Any]]
    command: str
    seconds: float
    fixed: float = 1.0
    items: int = 1
    roles: tuple[str, ...] = (OURS,)

    def estimate(self, limit: int | None) -> float:
        """Seconds, of the bundled model on its native engine."""
        return self.fixed + self.seconds * (1.0 if limit is None else min(1.0, limit / self.items))


_ALL = (OURS, TEXT, BASELINE)

SECTIONS = {
    section.name: section
    for section in (
        Section("probes", "Honesty probes", health.probe_files, health.probes,
                "bitmar eval probes {model} {shards} --blimp {blimp} {probe_size}", 15, 5, health.PAIRS),
        Section("grid", "Captions to look at", pictures.shard_files, pictures.grid,
                "bitmar caption {model} {shards} {grid_size} --grid captions.jpg", 1, 1, 12),
        Section("zeros", "Figure 3, zero weights", memory.zeros_files, memory.zeros,
                "bitmar plot quantization {source} quantization.png", 0, 3),
        Section("slots", "Figure 2, memory slots", memory.slots_files, memory.slots,
                "bitmar plot memory {source} {shards} {read_texts} memory.png", 0, 25),
        Section("speed", "Speed", health.nothing, health.speed, "bitmar bench {model} {bench_size}", 0, 20),
        Section("captions", "Captions and grounding", pictures.shard_files, pictures.captions,
                "bitmar eval caption {model} {shards} {limit} --json captions.json", 75, 10, 1000, _ALL),
        Section("retrieval", "Retrieval", pictures.shard_files, pictures.retrieval,
                "bitmar eval retrieval {model} {shards} {limit} --json retrieval.json", 40, 2, 1000, _ALL),
        Section("questions", "Questions about photos", pictures.shard_files, pictures.questions,
                "bitmar eval questions {model} {shards} {limit} --json questions.json", 30, 2, 1000, _ALL),
        Section("nlvr", "Yes/no questions on pictures", pictures.nlvr_files, pictures.nlvr,
                "bitmar eval nlvr {model} --data {nlvr} {limit} --json nlvr.json", 25, 1, 2964, _ALL),
        Section("tasks", "Zero-shot tasks of lm-evaluation-harness", language.task_files, language.tasks,
                "bitmar eval tasks {model} --data {tasks} {limit} --json tasks.json", 200, 10, 250, (*_ALL, PEER)),
        Section("babylm", "BabyLM 2025", language.babylm_files, language.babylm,
                "bitmar eval babylm {model} --data {babylm} {limit} --json babylm.json", 100, 2, 60000, _ALL),
        Section("without_memory", "BabyLM 2025, memory off", language.without_memory_files, language.without_memory,
                "bitmar report {model} {folder} {limit} --only without_memory --out report", 100, 2, 60000),
        Section("ablation", "Memory on, off, literal", memory.ablation_files, memory.ablation,
                "bitmar ablate memory {model} {shards} {long_texts} --blimp {blimp} {ablation_size} --json memory.json",
                160, 20, memory.PHOTOS),
        Section("finetuned", "Fine-tuning", language.finetuned_files, language.finetuned,
                "bitmar finetune TASK --model CHECKPOINT --out {finetuned}/TASK", 0, 0),
    )
}  # fmt: skip


def find_sections(names: Sequence[str]) -> list[Section]:
    """The named sections in the report's order, all if none is named. An unknown one: ConfigError with the nearest."""
    for name in names:
        if name not in SECTIONS:
            raise ConfigError(
                f"no section is called {name!r}{nearest(name, SECTIONS)}; there are {', '.join(SECTIONS)}"
            )
    return [section for name, section in SECTIONS.items() if not names or name in names]
