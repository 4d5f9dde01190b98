"""Rounds of seconds -> figures -> a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from _peers import BASELINE, CONTENDERS

Rounds = Mapping[str, Sequence[tuple[float, float]]]  # contender -> a round's (seconds, CPU seconds) for each token

QUIET = 0.9  # of a core: who had less was interrupted


def figures(measured: Mapping[str, Rounds], memory: Mapping[str, int], files: Mapping[str, int]) -> dict[str, Any]:
    """For each contender: by workload tokens a second and how many times faster bitmar is; MB of memory and file.

    Both are medians over the rounds; a round's ratio is between two runs a moment apart, so that a slow spell of the
    machine cancels out. share_of_core is CPU time over time: below 1 other processes took the core, which costs long
    runs more than short ones, so that no ratio holds; above 1 a contender has more than its one thread.
    """
    found: dict[str, Any] = {}
    for name, peak in memory.items():
        by_workload = {}
        for workload, rounds in measured.items():
            seconds, cpu = zip(*rounds[name], strict=True)
            base = [seconds for seconds, _ in rounds[BASELINE]]
            by_workload[workload] = {
                "tokens_per_second": 1 / median(seconds),
                "bitmar_is_faster": median(mine / its for mine, its in zip(seconds, base, strict=True)),
                "fastest_round": 1 / min(seconds),
                "slowest_round": 1 / max(seconds),
                "share_of_core": sum(cpu) / sum(seconds),
            }
        found[name] = {**by_workload, "peak_rss_mb": peak / 1e6, "file_mb": files[name] / 1e6}
    return found


def table(
    found: Mapping[str, Any], labels: Mapping[str, str], absent: Mapping[str, str], workloads: Sequence[str]
) -> str:
    """One row a contender under its label; below it who is absent, and whether the machine was busy."""
    heads = [
        "tokens a second",
        *(cell for workload in workloads for cell in (workload, "bitmar is")),
        "peak RSS",
        "file",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' + ' ---: |' * (len(heads) - 1)}"]
    for name, row in found.items():
        cells = [labels[name]]
        for workload in workloads:
            ratio = "1" if name == BASELINE else f"{row[workload]['bitmar_is_faster']:.2f} x"
            cells += [f"{row[workload]['tokens_per_second']:,.0f}", ratio]
        cells += [f"{row['peak_rss_mb']:,.0f} MB", f"{row['file_mb']:.1f} MB"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{CONTENDERS[name].about}: absent ({reason})." for name, reason in absent.items()]
    lowest = min(row[workload]["share_of_core"] for row in found.values() for workload in workloads)
    if lowest < QUIET:
        lines.append(f"\n**The machine was busy (a contender had {lowest:.0%} of its core): measure again.**")
    return "\n".join(lines)


def document(table: str, *, method: str, command: str, machine: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """The page: how it was measured, with what, on what, and the table."""
    return "\n".join(
        [
            "# Beside other engines",
            "",
            "Written by the command below; do not edit.",
            "",
            method,
            "",
            table,
            "",
            f"Command: `{command}`",
            "",
            f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
            f"{' '.join(machine['flags'])}; load {machine['load']}",
            "",
            f"Versions: Python {machine['python']}, {', '.join(f'{name} {v}' for name, v in versions.items())}; "
            f"commit {machine['commit']}; {machine['date']}",
            "",
        ]
    )
