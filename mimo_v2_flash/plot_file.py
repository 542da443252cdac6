"""Plots as files: a figure of matplotlib that is written as a whole, the same bytes each time."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .atomic_file import atomic_write

__all__ = ["plot_file"]

PLAIN = {"svg.fonttype": "none", "font.size": 9}


@contextmanager
def plot_file(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """Write the figure that the block draws to `path`, PNG or SVG; `size` is in inches.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `path` is neither PNG nor SVG.
    """
    if path.suffix not in {".png", ".svg"}:
        raise ValueError(f"plot {path}: allowed is a name that ends in .png or .svg")
    try:
        matplotlib = importlib.import_module("matplotlib")
        figures = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("the plot needs matplotlib: pip install 'mimo-v2-flash[plot]'") from error
    with matplotlib.rc_context(PLAIN | {"svg.hashsalt": path.stem}):
        figure = figures.Figure(figsize=size, layout="constrained")
        yield figure
        date = {"Date": None} if path.suffix == ".svg" else None
        with atomic_write(path) as partial:
            figure.savefig(partial, dpi=150, metadata=date, format=path.suffix[1:])
