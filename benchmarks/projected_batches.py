"""Projected decode steps of MiMo-V2-Flash on Trainium2 by batch size, on 32 and 64 ranks.

Nothing is measured: programs are traced and priced (`mimo cost`). It needs nkipy, and matplotlib.
Run `python -m benchmarks.projected_batches`: it prints the table of docs/trainium.md, and writes
its plot and benchmarks/results/trainium2_batches.json.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.ledger import ledger
from mimo_v2_flash.costs.step_figures import StepFigures, decode_figures, draft_figures
from mimo_v2_flash.costs.step_programs import decode_sizes
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.plot_file import plot_file

ROOT = Path(__file__).parents[1]
PLOT = ROOT / "docs" / "trainium_batches.svg"
RESULTS = ROOT / "benchmarks" / "results" / "trainium2_batches.json"
PLANS = {32: ParallelConfig(32, 4, 8), 64: ParallelConfig(64, 4, 16)}
BATCHES = (1, 8, 32, 64, 128, 256)
CONTEXT, CHUNK, DRAFTS = 4096, 128, 3
HEADER = (
    *("ranks", "batch", "launches", "least, ms", "bound, ms", "slow bound, ms", "expected, ms"),
    *("tokens/s", "with drafts: launches", "bound, ms", "tokens/s"),
)
Row = dict[str, Any]


def row_of(ranks: int, batch: int) -> Row:
    """Return the projected figures of a batch on some ranks, plain and with drafts."""
    plain = Deployment(MiMoConfig(), PLANS[ranks], batch, CONTEXT, CHUNK)
    drafting = replace(plain, draft_tokens=DRAFTS)
    drafts = draft_figures(ledger(drafting, lambda each: decode_sizes(each)[:1]), drafting)
    assert drafts is not None
    figures = decode_figures(ledger(plain, decode_sizes), plain)
    return {"ranks": ranks, "batch": batch, "plain": _numbers(figures), "drafts": _numbers(drafts)}


def _numbers(figures: StepFigures) -> Row:
    return {
        "launches": figures.launches,
        "exchanges_per_layer": figures.layer_exchanges,
        "least_ms": 1e3 * figures.least,
        "bound_ms": 1e3 * figures.bound,
        "slow_bound_ms": 1e3 * figures.slow_bound,
        "expected_ms": [1e3 * seconds for seconds in figures.expected],
        "tokens_per_second": figures.tokens_per_second,
    }


def markdown(rows: list[Row]) -> str:
    """Return the table of all rows."""
    lines = [HEADER, ("---:",) * len(HEADER), *map(_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    plain, drafts = row["plain"], row["drafts"]
    quickest, slowest = plain["expected_ms"]
    return (
        *(str(row["ranks"]), str(row["batch"]), str(plain["launches"])),
        *(f"{plain[name]:.1f}" for name in ("least_ms", "bound_ms", "slow_bound_ms")),
        f"{quickest:.0f} to {slowest:.0f}",
        f"{plain['tokens_per_second']:.0f}",
        str(drafts["launches"]),
        f"{drafts['bound_ms']:.1f}",
        f"{drafts['tokens_per_second']:.0f}",
    )


def draw(rows: list[Row], path: Path) -> None:
    """Plot tokens per second over the batch size, by the bound, and the expected range."""
    with plot_file(path, (8, 4.2)) as figure:
        axes = figure.subplots()
        for colour, ranks in zip(("#3b6ea5", "#c0392b"), PLANS, strict=True):
            some = [row for row in rows if row["ranks"] == ranks]
            batches = [row["batch"] for row in some]
            for kind, line in (("plain", "-"), ("drafts", "--")):
                speeds = [row[kind]["tokens_per_second"] for row in some]
                label = f"{ranks} ranks{', with drafts' * (kind == 'drafts')}, bound"
                axes.plot(batches, speeds, f"o{line}", color=colour, markersize=4, label=label)
            slow, quick = (
                [1e3 * row["batch"] / row["plain"]["expected_ms"][end] for row in some]
                for end in (1, 0)
            )
            label = f"{ranks} ranks, expected"
            axes.fill_between(batches, slow, quick, color=colour, alpha=0.2, label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("sequences")
        axes.set_ylabel("tokens per second")
        axes.set_title("projected for Trainium2, not measured", fontsize=8, loc="left")
        axes.grid(visible=True, which="major", linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)


def main() -> None:
    """Project all rows, print their table, and write numbers and plot."""
    rows = [row_of(ranks, batch) for ranks in PLANS for batch in BATCHES]
    sys.stdout.write(f"{markdown(rows)}\n")
    RESULTS.write_text(f"{json.dumps(rows, indent=1)}\n")
    draw(rows, PLOT)


if __name__ == "__main__":
    main()
