"""The picture of the memory (paper, Figure 2): which texts read which slots, use over time, what the slots hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bitmar.core.ternary import F32
from bitmar.plots.canvas import BLUE, FAINT, GREEN, MAP, ORANGE, figure, shorten, styled
from bitmar.plots.slots import Held, Passage, Reading
from bitmar.plots.snapshots import Course

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGGED_SERIES = {
    "live_slots": ("slots with at least a tenth of an even share", BLUE, "-"),
    "slot_entropy": ("evenness of all reads together", ORANGE, "--"),
    "read_entropy": ("evenness of a single read", GREEN, ":"),
}
"""The logged quantities that are drawn: all from 0 to 1, 1 is even."""


def draw_memory(
    title: str,
    readings: Sequence[Reading],
    found: Sequence[Passage],
    kept: Sequence[Held],
    use: Course | F32,
) -> Figure:
    """use: a run's log, or the usage (K, writes) along a stream."""
    subtitle = (
        f"{len(found)} passages, the same everywhere; every panel ranks its own {len(readings[0].activation)} slots. "
        "Colour: a slot's share of a passage's reads."
    )
    made = figure(14, 10.5, title, subtitle)
    with styled():
        rows = made.add_gridspec(4, len(readings), height_ratios=(0.12, 4.2, 2.2, 2.6))
        panels = [made.add_subplot(rows[1, i]) for i in range(len(readings))]
        for panel, reading in zip(panels, readings, strict=True):
            mesh = _heat(panel, reading, found)
        panels[0].set_ylabel("slot, the most read first (log scale)")
        bar = made.colorbar(mesh, ax=panels, pad=0.01, aspect=30, extend="min")
        bar.set_label("times an even share (log scale)")
        ticks = [n for n in (0.1, 1, 10, 100) if n <= len(readings[0].activation)]
        bar.set_ticks(ticks, labels=[str(n) for n in ticks])
        bar.minorticks_off()
        below = made.add_subplot(rows[2, :])
        if isinstance(use, Course):
            _draw_course(below, use)
        else:
            bar = made.colorbar(_draw_usage(below, use, found), ax=below, pad=0.01, aspect=16)
            bar.set_label("usage, 1 is just used")
        _draw_held(made.add_subplot(rows[3, :]), kept, readings[-1].name)
    return made


def _heat(panel: Any, reading: Reading, found: Sequence[Passage]) -> Any:
    from matplotlib.colors import LogNorm

    slots = len(reading.activation)
    shown = _by_rank(panel, np.maximum(reading.ranked * slots, 1e-9), norm=LogNorm(0.1, slots))
    panel.set_title(f"{reading.name}\n", fontsize=10)
    half = f"half of all reads go to {reading.needed} slot{'s' if reading.needed > 1 else ''}"
    panel.text(0, 1.015, half, transform=panel.transAxes, color=FAINT, fontsize=8.5)
    _mark_kinds(panel, [passage.kind for passage in found])
    return shown


def _by_rank(panel: Any, values: F32, **scale: Any) -> Any:
    """Values (K, n), best rows first: the first few ranks, which do the work, get most of the height."""
    slots, count = values.shape
    shown = panel.pcolormesh(np.arange(count + 1), np.arange(1, slots + 2), values, cmap=MAP, rasterized=True, **scale)
    ticks = [n for n in (1, 10, 100, 1000) if n <= slots]
    panel.set_yscale("log")
    panel.invert_yaxis()
    panel.set_yticks(ticks, [str(n) for n in ticks])
    panel.minorticks_off()
    return shown


def _mark_kinds(panel: Any, kinds: Sequence[str]) -> None:
    """Names below the columns, and a line where another kind begins."""
    begins = [i for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
    ends = [*begins[1:], len(kinds)]
    for begin in begins[1:]:
        panel.axvline(begin, color="white", linewidth=1.2)
    middles = [(a + b) / 2 for a, b in zip(begins, ends, strict=True)]
    names = [kinds[begin].replace("_", " ") for begin in begins]
    panel.set_xticks(middles, [shorten(name, 18) for name in names], rotation=20, fontsize=8)
    panel.tick_params(axis="x", length=0)


def _draw_course(panel: Any, course: Course) -> None:
    panel.set_title("Slot usage over training\n")
    for name, (label, colour, dashes) in LOGGED_SERIES.items():
        values = course.columns[name]
        points = [(step, y) for step, y in zip(course.steps, values, strict=True) if y is not None]
        if points:
            panel.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=1.8, label=label)
    mark_stages(panel, course)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("training step, counted through all stages")
    panel.set_ylabel("share, evenness")
    panel.legend(loc="lower right", ncols=3, fontsize=8.5)


def mark_stages(panel: Any, course: Course) -> None:
    """A line and a name where each stage of a run begins."""
    last = course.steps[-1]
    panel.set_xlim(0, last)
    ends = [*(step for step, _ in course.begins[1:]), last]
    for (step, stage), end in zip(course.begins, ends, strict=True):
        if step:
            panel.axvline(step, color=FAINT, linewidth=0.8)
        narrow = end - step < 0.07 * last
        x = end if narrow and end == last else step + 0.006 * last
        panel.text(
            x, 1.0, stage, transform=panel.get_xaxis_transform(), color=FAINT, fontsize=8.5, va="bottom",
            ha="right" if narrow and end == last else "left", rotation=0,
        )  # fmt: skip


def _draw_usage(panel: Any, usage: F32, found: Sequence[Passage]) -> Any:
    order = np.argsort(-usage.mean(axis=1), kind="stable")
    panel.set_title("Slot usage while these passages are written, from left to right")
    panel.set_ylabel("slot, the most used first")
    shown = _by_rank(panel, usage[order], vmin=0, vmax=1)
    _mark_kinds(panel, [passage.kind for passage in found])
    return shown


def _draw_held(panel: Any, kept: Sequence[Held], name: str) -> None:
    panel.set_axis_off()
    panel.set_title(f"What the most read slots hold ({name}): the passages that read them the most, or their episode")
    for i, one in enumerate(kept):
        y = 1 - (i + 0.6) / max(len(kept), 4)
        text = "   |   ".join(shorten(text, 74) for text in one.texts).replace("$", r"\$")
        cells = [
            panel.text(0.0, y, f"slot {one.slot}", fontweight="bold"),
            panel.text(0.075, y, f"{one.share:.1%} of reads", color=FAINT),
            panel.text(0.185, y, text, fontsize=8.5),
        ]
        for cell in cells:
            cell.set(transform=panel.transAxes, va="center", in_layout=False)  # a long text pushes no panel aside
