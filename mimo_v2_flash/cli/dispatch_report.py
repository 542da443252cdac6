"""Report of expert dispatch on several ranks: bytes sent beside a lower bound, loads and times."""

from typing import Any

import numpy as np
from rich.table import Table

from mimo_v2_flash.layers.dispatch_stats import DispatchStats, DispatchStatsBackend
from mimo_v2_flash.parallel import HostGroup

from .console import amount, table

__all__ = ["dispatch_numbers", "dispatch_report"]


def dispatch_report(backend: DispatchStatsBackend, group: HostGroup) -> Table | None:
    """Return a table summed over all ranks, with a column for each dispatcher that was used.

    A collective call: every rank passes its own backend. The result is None on a single rank, and
    if no MoE layer ran.
    """
    by_dispatcher = _totals(backend, group)
    if not by_dispatcher:
        return None
    columns = [_rows(stats, group.size) for stats in by_dispatcher.values()]
    rows = ((what, *(column[what] for column in columns)) for what in columns[0])
    return table(f"Experts on {group.size} ranks", ("what",), tuple(by_dispatcher), rows)


def dispatch_numbers(backend: DispatchStatsBackend, group: HostGroup) -> dict[str, Any]:
    """Return the numbers of `--json` for each dispatcher, summed over all ranks; collective too."""
    return {
        name: {
            "calls": round(stats.calls),
            "dispatched_tokens": round(stats.tokens),
            "routed_pairs": round(stats.pairs),
            "computed_pairs": round(stats.computed),
            "sent_bytes": round(stats.sent),
            "lower_bound_bytes": round(stats.lower_bound),
            "collective_seconds": stats.dispatch_seconds,
            "expert_seconds": stats.expert_seconds,
        }
        for name, stats in _totals(backend, group).items()
    }


def _totals(backend: DispatchStatsBackend, group: HostGroup) -> dict[str, DispatchStats]:
    """Return the sums of the dispatchers that were used; empty on a single rank."""
    if group.size == 1:
        return {}
    totals = {name: stats.total(group) for name, stats in backend.by_dispatcher.items()}
    return {name: stats for name, stats in totals.items() if stats.calls}


def _rows(stats: DispatchStats, ranks: int) -> dict[str, str]:
    """Return the column of one dispatcher, by row."""
    tokens = max(stats.tokens, 1)
    ratio = f"{stats.sent / stats.lower_bound:.2f}" if stats.lower_bound else "none needed"
    dropped = stats.pairs - stats.computed
    return {
        "steps x layers": f"{stats.calls / ranks:,.0f}",
        "tokens per step, all ranks": f"{stats.tokens / stats.calls * ranks:,.1f}",
        "sent per token and layer": amount(round(stats.sent / tokens)),
        "lower bound": amount(round(stats.lower_bound / tokens)),
        "sent / lower bound": ratio,
        "(token, expert) pairs: routed, dropped": f"{stats.pairs:,.0f}, {dropped:,.0f}",
        "tokens per expert: mean, p99, max": _spread(stats.tokens_per_expert),
        "tokens per rank: mean, p99, max": _spread(stats.tokens_per_rank),
        "time in collectives, per rank": f"{stats.dispatch_seconds / ranks:.2f} s",
        "time in experts, per rank": f"{stats.expert_seconds / ranks:.2f} s",
    }


def _spread(counts: Any) -> str:
    """Return mean, 99th percentile and maximum of a histogram: n occurred `counts[n]` times."""
    counts = np.trim_zeros(counts, "b")
    mean = np.dot(counts, np.arange(len(counts))) / np.sum(counts)
    p99 = np.searchsorted(np.cumsum(counts), 0.99 * np.sum(counts))
    return f"{mean:,.1f}, {p99:,}, {len(counts) - 1:,}"
