"""The picture of attention: for each word where on the photo, on which words, and in which slots the model looked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from bitmar.core.ternary import F32
from bitmar.plots.canvas import FAINT, MAP, figure, shorten, styled
from bitmar.plots.words import BEGIN, WordTrace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLOTS = 8  # columns of the memory's panel
_ROW = 0.85  # inches for a word
_DARKEST = 0.3  # of a photo's brightness, where nothing looked


def draw_attention(title: str, trace: WordTrace) -> Figure:
    """One row a word."""
    words, slots = len(trace.words), _top_slots(trace.reads)
    even = trace.vision[0].size
    subtitle = (
        f"\N{LEFT DOUBLE QUOTATION MARK}{shorten(trace.caption, 90)}\N{RIGHT DOUBLE QUOTATION MARK}    "
        "Each row: the step that wrote the word. Weights are means over heads; those on words also over layers."
    )
    made = figure(13, 2.6 + _ROW * words + (1.0 if trace.slots else 0), title, subtitle)
    aspect = trace.photo.width / trace.photo.height
    with styled():
        wide = (1.3, 1.1 * aspect, 0.42 * words, 0.42 * max(len(slots), 1))
        grid = made.add_gridspec(words + 1, 4, width_ratios=wide, height_ratios=(0.35, *[1] * words))
        for row in range(words):
            _label(made.add_subplot(grid[row + 1, 0]), trace, row)
            panel = made.add_subplot(grid[row + 1, 1])
            _spotlight(panel, trace.photo, trace.vision[row])
            panel.text(1.03, 0.5, f"max {trace.vision[row].max():.0%}", transform=panel.transAxes, fontsize=7.5,
                       color=FAINT, va="center")  # fmt: skip
            if row == 0:
                panel.set_title(f"on the photo\n(even: {1 / even:.1%})", fontsize=9)
        text = made.add_subplot(grid[1:, 2])
        seen = np.ma.masked_where(np.triu(np.ones_like(trace.text), 1) > 0, trace.text)[:, :words]
        head = (
            f"on the begin token and the words so far\n(the first {trace.sinks} tokens are the sinks, never forgotten)"
        )
        _matrix(made, text, seen, [BEGIN, *trace.words[:-1]], head)
        memory = made.add_subplot(grid[1:, 3])
        if trace.reads is None:
            memory.set_axis_off()
            memory.set_title("this model has no memory", fontsize=9)
        else:
            names = [shorten(trace.slots.get(slot) or str(slot), 26) for slot in slots]
            covered = trace.reads[:, slots].sum(axis=1).mean()
            head = (
                f"in the memory: {len(slots)} slots, {covered:.0%} of reads\n(the most read of {trace.reads.shape[1]})"
            )
            _matrix(made, memory, trace.reads[:, slots], names, head)
    return made


def _label(panel: Any, trace: WordTrace, row: int) -> None:
    panel.set_axis_off()
    panel.text(1.0, 0.56, trace.words[row].replace("$", r"\$"), ha="right", va="center", fontsize=12, fontweight="bold")
    chance = float(np.exp(trace.log_probabilities[row]))
    panel.text(1.0, 0.24, f"p = {chance:.2g}", ha="right", va="center", fontsize=8, color=FAINT)


def _spotlight(panel: Any, photo: Image.Image, weights: F32) -> None:
    """The photo, dark where nothing looked: brightness needs no colours that somebody cannot tell apart."""
    small = photo.convert("RGB").copy()
    small.thumbnail((220, 220))
    light = Image.fromarray((255 * weights / max(weights.max(), 1e-9)).astype(np.uint8))
    mask = np.asarray(light.resize(small.size, Image.Resampling.BICUBIC), np.float32) / 255
    shown = np.asarray(small, np.float32) / 255 * (_DARKEST + (1 - _DARKEST) * mask[..., None])
    panel.imshow(np.clip(shown, 0, 1))
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def _matrix(made: Any, panel: Any, weights: Any, names: list[str], title: str) -> None:
    from matplotlib.colors import PowerNorm

    most = max(float(weights.max()), 1e-9)
    shown = panel.imshow(weights, aspect="auto", cmap=MAP, norm=PowerNorm(0.5, 0, most))  # small shares stay visible
    panel.set_title(title, fontsize=9)
    panel.set_xticks(
        range(len(names)), [name.replace("$", r"\$") for name in names], rotation=60, ha="right", fontsize=8
    )
    panel.set_yticks([])
    panel.tick_params(length=0)
    for (row, column), value in np.ndenumerate(np.ma.filled(weights, np.nan)):
        if value >= 0.005:
            dark = value < 0.3 * most
            panel.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5,
                       color="white" if dark else "black")  # fmt: skip
    made.colorbar(shown, ax=panel, location="bottom", pad=0.01, aspect=40, shrink=0.9).set_label("weight (cells: %)")


def _top_slots(reads: F32 | None) -> list[int]:
    if reads is None:
        return []
    top: list[int] = np.argsort(-reads.mean(axis=0), kind="stable")[:_SLOTS].tolist()
    return top
