"""Shared by all pictures: matplotlib without a display, colours that everybody can tell apart, saving."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitmar.core.errors import ConfigError, DependencyError, pip_install
from bitmar.core.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {".png": "png", ".svg": "svg"}
# Okabe and Ito (2008): told apart with every kind of colour blindness, and in print.
BLUE, ORANGE, GREEN, PINK, RED, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#222222",
)  # fmt: skip
FAINT = "#8a8a8a"
MAP = "cividis"  # perceptually even, the same to the colour-blind
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "bitmar",  # the same picture is the same file
}


def figure(width: float, height: float, title: str, subtitle: str = "") -> Figure:
    """An empty picture of width x height inches. Raises DependencyError without matplotlib."""
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        made.suptitle(f"{title}\n" if subtitle else title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        if subtitle:
            made.text(0.01, 1 - 0.42 / height, subtitle, ha="left", va="top", color=FAINT, fontsize=9)
    return made


def styled() -> Any:
    """A context in which all is drawn in this project's style."""
    return _matplotlib().rc_context(_STYLE)


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise DependencyError(f"pictures need {error.name}: {pip_install('plots')}") from error
    return matplotlib


def check_out(path: str | Path) -> None:
    """Raise ConfigError for a file that no picture can be saved to, before there is any work."""
    if Path(path).suffix.lower() not in KINDS:
        raise ConfigError(f"a picture is saved as .png or .svg, not as {Path(path).name!r}")
    _matplotlib()


def save(made: Figure, path: str | Path) -> None:
    """As PNG or SVG, by the suffix."""
    check_out(path)
    path = Path(path)
    data = io.BytesIO()
    with styled():
        kind = KINDS[path.suffix.lower()]
        made.savefig(data, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.getvalue())


def shorten(text: str, most: int) -> str:
    """The text cut to N characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"
