"""Roofline plot of a deployment: projected speed of each program under the hardware limits.

Source: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.plot_file import plot_file

from . import trainium2
from .ledger import Ledger, StepTime

__all__ = ["draw"]

COLOURS = ("#3b6ea5", "#c0392b", "#4f9d69")  # of the steps
MARKERS = "osD^vP*X"  # of the programs


def draw(ledger: Ledger, steps: list[StepTime], title: str, path: Path) -> None:
    """Plot the programs of `steps`: operations per second over operations per byte.

    Errors are those of `plot_file`.

    Parameters
    ----------
    ledger : Ledger
        Cost of each program.
    steps : list of StepTime
        Steps whose programs are drawn.
    title : str
        Title of the plot.
    path : Path
        The file; its ending says the format.
    """
    with plot_file(path, (9, 4.5)) as figure:
        axes = figure.subplots()
        _points(axes, ledger, steps)
        _roof(axes)
        axes.set_title(f"{title}\nprojected for Trainium2, not measured", fontsize=8, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)


def _points(axes: Any, ledger: Ledger, steps: list[StepTime]) -> None:
    """Plot a point for each program that has matmuls."""
    kinds = [name.split(",")[0] for step in steps for name in step.calls]
    marker = dict(zip(dict.fromkeys(kinds), MARKERS, strict=False))
    for colour, step in zip(COLOURS, steps, strict=False):
        for name in step.calls:
            entry, kind = ledger.entries[name], name.split(",")[0]
            if entry.cost.operations:
                moved = entry.seconds.memory * trainium2.BYTES_PER_SECOND
                point = entry.cost.operations / moved, entry.cost.operations / entry.seconds.bound
                label = f"{kind}, {step.tokens} token{'s' * (step.tokens > 1)}"
                axes.plot(*point, marker[kind], color=colour, markersize=7, label=label)


def _roof(axes: Any) -> None:
    """Plot the limits of memory and matmuls over the range of the points."""
    ridge = trainium2.FLOPS / trainium2.BYTES_PER_SECOND
    drawn = [line.get_xdata()[0] for line in axes.lines]
    at = np.geomspace(min([ridge, *drawn]) / 3, max([ridge, *drawn]) * 3, 200)
    roof = np.minimum(at * trainium2.BYTES_PER_SECOND, trainium2.FLOPS)
    axes.plot(at, roof, color="black", linewidth=1, label="memory, then matmuls")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("matmul operations per byte of memory")
    axes.set_ylabel("matmul operations per second, of a rank")
    axes.grid(visible=True, which="major", linewidth=0.3)
