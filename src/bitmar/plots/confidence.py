"""The picture of confidence: is a caption right as often as the model says, and how often where it is sure?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitmar.core.errors import ConfigError, FormatError
from bitmar.core.strict_json import parse_json
from bitmar.plots.canvas import BLUE, FAINT, RED, figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def read_naming(path: Path) -> dict[str, Any]:
    """Read the file of `bitmar eval naming --json`. FormatError: another file. ConfigError: no confidence in it."""
    try:
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{path} is no result of `bitmar eval naming --json`: {error}") from error
    if not isinstance(found, dict) or "reliability" not in found or "by_coverage" not in found:
        raise FormatError(f"{path} is no result of `bitmar eval naming --json`")
    if found["reliability"] is None:
        raise ConfigError(
            f"the captions of {path} carry no confidence: calibrate the model by `bitmar calibrate-captions`"
        )
    return found


def draw_confidence(title: str, naming: Mapping[str, Any]) -> Figure:
    """naming: as `NamingReport.to_dict`, with confidence. Left the reliability diagram (arXiv 1706.04599), right the
    risk-coverage curve (arXiv 1705.08500)."""
    subtitle = (
        f"{naming['photos']:,} photos whose label is known; calibration error {naming['calibration_error']:.3f}, "
        f"{100 * naming['by_coverage']['100%']:.0f} % right"
    )
    made = figure(10.5, 4.6, title, subtitle)
    with styled():
        rows = made.add_gridspec(2, 2, height_ratios=(0.1, 4))
        _draw_reliability(made.add_subplot(rows[1, 0]), naming["reliability"])
        _draw_risk(made.add_subplot(rows[1, 1]), naming["by_coverage"])
    return made


def _draw_reliability(panel: Any, bins: list[dict[str, float]]) -> None:
    panel.set_title("Right as often as it says?")
    panel.plot([0, 100], [0, 100], "--", color=FAINT, linewidth=0.9)
    sure, right = ([100 * each[name] for each in bins] for name in ("confidence", "right"))
    panel.plot(sure, right, "o-", color=BLUE, linewidth=1.6)
    for x, y, each in zip(sure, right, bins, strict=True):
        panel.annotate(f"{each['photos']:.0f}", (x, y), (4, -10), textcoords="offset points", color=FAINT, fontsize=8)
    panel.set_xlim(0, 100)
    panel.set_ylim(0, 100)
    panel.set_xlabel("confidence, %   (the numbers: photos)")
    panel.set_ylabel("captions that name the thing, %")


def _draw_risk(panel: Any, by_coverage: Mapping[str, float]) -> None:
    panel.set_title("Wrong how often, where it is sure?")
    covered = [float(share.rstrip("%")) for share in by_coverage]
    risk = [100 * (1 - right) for right in by_coverage.values()]
    panel.plot(covered, risk, "o-", color=RED, linewidth=1.6)
    panel.axhline(risk[-1], color=FAINT, linewidth=0.9, linestyle="--")
    panel.set_xlim(0, 102)
    panel.set_ylim(0, max(100.0 * (max(risk) > 90), max(risk) * 1.15, 1))
    panel.set_xlabel("captions given, the surest first, %")
    panel.set_ylabel("of these wrong, %")
