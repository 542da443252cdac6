"""What a run on several ranks has sent to its experts and back, beside the least possible."""

from typing import Any

import numpy as np
from rich.table import Table

from mimo_v2_flash.layers.dispatch_stats import DispatchStats, DispatchStatsBackend
from mimo_v2_flash.parallel import HostGroup

from .console import amount, table

__all__ = ["dispatch_report"]


def dispatch_report(record: DispatchStatsBackend, group: HostGroup) -> Table | None:
    """Return the table of all ranks, which make this call together, each with its own record.

    A column for each way to the experts that was taken; None if there is no other rank, or no
    layer of experts.
    """
    if group.size == 1:
        return None
    by_dispatcher = {name: stats.total(group) for name, stats in record.by_dispatcher.items()}
    by_dispatcher = {name: stats for name, stats in by_dispatcher.items() if stats.calls}
    if not by_dispatcher:
        return None
    made = table(f"Experts on {group.size} ranks", ("what",), tuple(by_dispatcher))
    columns = [_rows(stats, group.size) for stats in by_dispatcher.values()]
    for what in columns[0]:
        made.add_row(what, *(column[what] for column in columns))
    return made


def _rows(stats: DispatchStats, ranks: int) -> dict[str, str]:
    """Return what is said of one way."""
    tokens = max(stats.tokens, 1)
    ratio = f"{stats.sent / stats.lower_bound:.2f}" if stats.lower_bound else "none needed"
    lost = stats.pairs - stats.computed
    return {
        "steps x layers": f"{stats.calls / ranks:,.0f}",
        "tokens a step, all ranks": f"{stats.tokens / stats.calls * ranks:,.1f}",
        "sent per token and layer": amount(round(stats.sent / tokens)),
        "least possible": amount(round(stats.lower_bound / tokens)),
        "sent / least": ratio,
        "pairs chosen, lost": f"{stats.pairs:,.0f}, {lost:,.0f}",
        "tokens of an expert: mean, p99, most": _spread(stats.tokens_per_expert),
        "tokens of a rank: mean, p99, most": _spread(stats.tokens_per_rank),
        "in exchanges, per rank": f"{stats.dispatch_seconds / ranks:.2f} s",
        "in experts, per rank": f"{stats.expert_seconds / ranks:.2f} s",
    }


def _spread(times: Any) -> str:
    """Return mean, 99th percentile and maximum of n, which came `times[n]` times."""
    times = np.trim_zeros(times, "b")
    mean = np.dot(times, np.arange(len(times))) / np.sum(times)
    p99 = np.searchsorted(np.cumsum(times), 0.99 * np.sum(times))
    return f"{mean:,.1f}, {p99:,}, {len(times) - 1:,}"
