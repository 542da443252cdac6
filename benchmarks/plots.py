"""Plot of a run of `benchmarks.cpu`: speed-ups over transformers, and shares of machine limits."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .findings import Row

__all__ = ["draw"]

OURS, BAR = "#3b6ea5", "#c0392b"
STYLE = {"svg.hashsalt": "cpu", "svg.fonttype": "none", "font.size": 9}


def draw(rows: list[Row], machine: str, path: Path) -> None:
    """Draw every figure that has a bar, speeds on the left and shares on the right."""
    barred = [row for row in rows if row.bar is not None and row.bar > 0.01]
    times = [row for row in barred if not row.is_share and not row.at_most]
    shares = [row for row in barred if row.is_share or row.at_most]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _bars(left, times, "times as fast as the better of transformers' two")
        _bars(right, shares, "share, or ratio")
        left.axvline(1, color="black", linewidth=0.8)
        figure.suptitle(f"{machine}; lines: least and greatest round; red: the bar", fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def _bars(axes: Axes, rows: list[Row], unit: str) -> None:
    positions = range(len(rows))
    medians = [row.median for row in rows]
    below = [row.median - min(row.values) for row in rows]
    above = [max(row.values) - row.median for row in rows]
    axes.barh(positions, medians, xerr=(below, above), height=0.6, color=OURS)
    for position, row in zip(positions, rows, strict=True):
        axes.plot([row.bar] * 2, [position - 0.4, position + 0.4], color=BAR, linewidth=1.5)
    names = [f"{row.what.split(', times')[0]}\n{row.bar_text}" for row in rows]
    axes.set_yticks(positions, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
