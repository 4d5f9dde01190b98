"""The picture of quantisation (paper, Figure 3): the share of zero weights over training, and in every matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bitmar.plots.canvas import BLACK, BLUE, FAINT, GREEN, ORANGE, PINK, figure, styled
from bitmar.plots.memory import mark_stages
from bitmar.plots.snapshots import Course
from bitmar.plots.zeros import PAPER, Matrix, gaussian_zeros

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOGGED = "zero_fraction"
_COLOURS = {"encoder": BLUE, "decoder": ORANGE, "vision tower": GREEN, "other": PINK}
_REFERENCES = (
    (gaussian_zeros(), "Gaussian weights"),
    (gaussian_zeros(2 / 3), "Gaussian, threshold 2/3"),
    (PAPER, "the paper, at its end"),
)


def draw_quantization(title: str, matrices: Sequence[Matrix], course: Course | None) -> Figure:
    """course: of LOGGED; None for a model alone."""
    families = _families(matrices)
    tall = 1.3 + 0.36 * len(families)
    has_course = course is not None and len(course) > 0
    mean = sum(m.zeros for m in matrices) / len(matrices)
    weighted = sum(m.zeros * m.weights for m in matrices) / sum(m.weights for m in matrices)
    subtitle = (
        "E_q, the share of zeros: what lies below half of mean|W| is rounded to zero. "
        f"Now {mean:.1%} as the mean of {len(matrices)} matrices, {weighted:.1%} of all their weights."
    )
    made = figure(10.5, 1.1 + tall + (3.2 if has_course else 0), title, subtitle)
    with styled():
        heights = (0.1, 3.2, tall) if has_course else (0.1, tall)
        rows = made.add_gridspec(len(heights), 1, height_ratios=heights)
        if course is not None and has_course:
            _draw_course(made.add_subplot(rows[1]), course)
        _draw_matrices(made.add_subplot(rows[-1]), families)
    return made


def _draw_course(panel: Any, course: Course) -> None:
    panel.set_title("Over training, mean over the matrices\n")
    values = course.columns[LOGGED]
    begins = [step for step, _ in course.begins]
    for begin, end in zip(begins, [*begins[1:], course.steps[-1] + 1], strict=True):  # a stage may have other matrices
        points = [
            (step, 100 * value)
            for step, value in zip(course.steps, values, strict=True)
            if value is not None and begin < step <= end
        ]
        if points:
            panel.plot(*zip(*points, strict=True), color=BLUE, linewidth=2)
    mark_stages(panel, course)
    for share, name in _REFERENCES:
        panel.axhline(100 * share, color=FAINT, linewidth=0.9, linestyle="--")
        panel.text(0.45 * course.steps[-1], 100 * share, f"{name}, {share:.1%}", ha="center", va="center", color=FAINT,
                   fontsize=8.5, bbox={"color": "white", "pad": 1})  # fmt: skip
    panel.set_ylim(28, 45)
    panel.set_xlabel("training step, counted through all stages")
    panel.set_ylabel("zeros, %")


def _families(matrices: Sequence[Matrix]) -> dict[tuple[str, str], list[Matrix]]:
    """By part of the model and kind of matrix, in the order of the parts."""
    found: dict[tuple[str, str], list[Matrix]] = {}
    for part in _COLOURS:
        for matrix in matrices:
            if matrix.part == part:
                found.setdefault((part, matrix.family), []).append(matrix)
    return found


def _draw_matrices(panel: Any, families: dict[tuple[str, str], list[Matrix]]) -> None:
    panel.set_title("In every matrix; the number is that of its block")
    for share, _ in _REFERENCES:
        panel.axvline(100 * share, color=FAINT, linewidth=0.9, linestyle="--", zorder=0)
    for row, ((part, _), group) in enumerate(families.items()):
        for place, matrix in enumerate(group):
            _draw_matrix(panel, matrix, row + (place / max(len(group) - 1, 1) - 0.5) * 0.55 * (len(group) > 1), part)
    names = [family if part == "other" else f"{part} {family}" for part, family in families]
    for label, (part, _) in zip(panel.set_yticks(range(len(names)), names), families, strict=True):
        label.label1.set_color(_COLOURS[part])
    panel.set_ylim(len(families) - 0.4, -0.6)
    panel.set_xlabel("zeros, %   (dashed: Gaussian weights at threshold 1/2 and at 2/3; the paper's 42.8 %)")
    panel.grid(axis="y", color="#e6e6e6", zorder=0)
    panel.set_axisbelow(True)
    if any(matrix.before is not None for group in families.values() for matrix in group):
        panel.plot([], [], "|", color=FAINT, markersize=9, label="when the run noted it first")
        panel.legend(loc="upper right", frameon=True, fontsize=8.5)


def _draw_matrix(panel: Any, matrix: Matrix, y: float, part: str) -> None:
    now, colour = 100 * matrix.zeros, _COLOURS[part]
    if matrix.before is not None:
        panel.plot([100 * matrix.before, now], [y, y], color=colour, linewidth=1, alpha=0.6)
        panel.plot(100 * matrix.before, y, "|", color=colour, markersize=6)
    panel.scatter(now, y, s=75, color=colour, zorder=3, linewidths=0)
    if matrix.layer is not None:
        panel.text(now, y, str(matrix.layer), ha="center", va="center_baseline", fontsize=7, zorder=4,
                   color="white" if part == "encoder" else BLACK)  # fmt: skip
