"""Plots of recorded routing: hits over the budget of a store, and how often experts are chosen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mimo_v2_flash.plot_file import plot_file

from .routing_statistics import choice_counts
from .routing_trace import RoutingTrace
from .simulator import POOLS, Simulation

__all__ = ["draw_heat_map", "draw_hit_curves"]

LINES = dict(zip(POOLS, ("-", ":"), strict=True))


def draw_hit_curves(
    simulations: Sequence[Simulation], experts_bytes: int, title: str, path: Path
) -> None:
    """Plot the hits of each policy and pool over the budget, beside what equal odds would bring.

    Hits are of the second half of the calls, of which a static set has learnt nothing. Errors are
    those of `plot_file`.

    Parameters
    ----------
    simulations : sequence of Simulation
        Hits of each policy and pool, by budget.
    experts_bytes : int
        Bytes of all experts.
    title : str
        Title of the plot.
    path : Path
        The file; its ending says the format.
    """
    policies = list(dict.fromkeys(each.policy for each in simulations))
    with plot_file(path, (8, 4.5)) as figure:
        axes = figure.subplots()
        for index, policy in enumerate(policies):
            for pool, line in LINES.items():
                points = [
                    (100 * each.capacity / experts_bytes, 100 * each.second_half.hit_rate)
                    for each in simulations
                    if (each.policy, each.pool) == (policy, pool)
                ]
                if points:
                    label = f"{policy}, {pool}"
                    axes.plot(*zip(*points, strict=True), line, color=f"C{index}", label=label)
        part = sorted({100 * each.capacity / experts_bytes for each in simulations})
        axes.plot(part, np.minimum(part, 100), color="grey", linewidth=0.8, label="equal odds")
        axes.set_xlabel("budget, % of all experts' bytes")
        axes.set_ylabel("uses that were held, %, second half")
        axes.set_title(title, fontsize=8, loc="left")
        axes.grid(visible=True, linewidth=0.3)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)


def draw_heat_map(trace: RoutingTrace, title: str, path: Path) -> None:
    """Plot how often each expert of each layer was chosen, beside equal odds.

    Parameters
    ----------
    trace : RoutingTrace
        Which experts each token chose.
    title : str
        Title of the plot.
    path : Path
        The file; its ending says the format.
    """
    count_LE = choice_counts(trace)
    expected_L1 = np.maximum(count_LE.mean(axis=1, keepdims=True), 1e-9)
    with plot_file(path, (9, 4)) as figure:
        axes = figure.subplots()
        image = axes.imshow(count_LE / expected_L1, aspect="auto", interpolation="nearest")
        axes.set_xlabel("expert")
        axes.set_ylabel("layer")
        axes.set_yticks(range(len(trace.header.layers)), trace.header.layers, fontsize=6)
        axes.set_title(title, fontsize=8, loc="left")
        figure.colorbar(image, label="choices, 1 = equal odds")
