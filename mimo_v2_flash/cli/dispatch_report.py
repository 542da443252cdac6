"""What a run on several ranks has sent to its experts and back, beside the least possible."""

from typing import Any

import numpy as np
from rich.table import Table

from mimo_v2_flash.layers.dispatch_stats import Carried, ExchangeRecord
from mimo_v2_flash.parallel import HostGroup

from .console import amount, table

__all__ = ["exchange_report"]


def exchange_report(record: ExchangeRecord, group: HostGroup) -> Table | None:
    """Return the table of all ranks, which make this call together, each with its own record.

    A column for each way to the experts that was taken; None if there is no other rank, or no
    layer of experts.
    """
    if group.size == 1:
        return None
    ways = {name: carried.total(group) for name, carried in record.ways.items()}
    ways = {name: carried for name, carried in ways.items() if carried.calls}
    if not ways:
        return None
    made = table(f"Experts on {group.size} ranks", ("what",), tuple(ways))
    columns = [_rows(carried, group.size) for carried in ways.values()]
    for what in columns[0]:
        made.add_row(what, *(column[what] for column in columns))
    return made


def _rows(carried: Carried, ranks: int) -> dict[str, str]:
    """Return what is said of one way."""
    tokens = max(carried.tokens, 1)
    ratio = f"{carried.sent / carried.least:.2f}" if carried.least else "none needed"
    lost = carried.pairs - carried.answered
    return {
        "steps x layers": f"{carried.calls / ranks:,.0f}",
        "tokens a step, all ranks": f"{carried.tokens / carried.calls * ranks:,.1f}",
        "sent per token and layer": amount(round(carried.sent / tokens)),
        "least possible": amount(round(carried.least / tokens)),
        "sent / least": ratio,
        "pairs chosen, lost": f"{carried.pairs:,.0f}, {lost:,.0f}",
        "tokens of an expert: mean, p99, most": _spread(carried.of_expert),
        "tokens of a rank: mean, p99, most": _spread(carried.of_rank),
        "in exchanges, per rank": f"{carried.exchange_seconds / ranks:.2f} s",
        "in experts, per rank": f"{carried.expert_seconds / ranks:.2f} s",
    }


def _spread(times: Any) -> str:
    """Return mean, 99th percentile and maximum of n, which came `times[n]` times."""
    times = np.trim_zeros(times, "b")
    mean = np.dot(times, np.arange(len(times))) / np.sum(times)
    p99 = np.searchsorted(np.cumsum(times), 0.99 * np.sum(times))
    return f"{mean:,.1f}, {p99:,}, {len(times) - 1:,}"
