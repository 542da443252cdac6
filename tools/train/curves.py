"""Plot of the training: losses, load balance of the experts, agreement of the MTP heads."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

__all__ = ["draw"]

mpl.use("Agg")
mpl.rcParams["svg.hashsalt"] = "curves"  # equal logs make equal files


def draw(work: Path, plot: Path) -> None:
    """Draw the logs of `work` into the SVG file `plot`."""
    trunk, heads = (read(work / f"{name}.jsonl") for name in ("trunk", "heads"))
    figure, (losses, balance, agreements) = pyplot.subplots(1, 3, figsize=(12, 3.4))
    for name, label in (("loss", "training"), ("held_out", "held out")):
        losses.plot(trunk["step"], trunk[name], label=label)
    losses.set(title="Trunk", xlabel="step", ylabel="nats per token")
    balance.plot(trunk["step"], trunk["busiest"])
    balance.axhline(1, color="grey", linewidth=0.8)
    balance.set(title="Busiest expert of all layers", xlabel="step", ylabel="times the average")
    for name in sorted(each for each in heads if each.startswith("agreement")):
        agreements.plot(heads["step"], heads[name], label=f"head {name[-1]}")
    agreements.set(title="Heads agree with the trunk", xlabel="step", ylabel="share of tokens")
    for axes in (losses, agreements):
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(plot, metadata={"Date": None})
    pyplot.close(figure)


def read(log: Path) -> dict[str, list[Any]]:
    """Return the lines of a log as columns."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0]}
