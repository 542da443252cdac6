"""Report of an engine's statistics: rows of a table, and numbers of `--json`."""

import math
from typing import Any

from rich.filesize import decimal

from mimo_v2_flash.engine.stats import EngineStats, Percentiles
from mimo_v2_flash.expert_store import StoreStats

__all__ = ["engine_numbers", "engine_rows", "finite"]


def engine_numbers(stats: EngineStats) -> dict[str, Any]:
    """Return all statistics by name; percentiles are objects."""
    return {
        name: value._asdict() if isinstance(value, Percentiles | StoreStats) else value
        for name, value in stats._asdict().items()
    }


def engine_rows(stats: EngineStats) -> list[tuple[str, str]]:
    """Return rates and latencies as rows of a table; of drafts and of many requests, theirs too."""
    rows = [
        ("time to first token", _seconds(stats.first_token_seconds)),
        ("time between tokens", _seconds(stats.token_seconds)),
        ("prefill", _amount(stats.prefill_tokens_per_second, "tokens/s")),
        ("decode", _amount(stats.decode_tokens_per_second, "tokens/s")),
    ]
    if stats.drafted[0]:
        rows += _draft_rows(stats)
    if stats.expert_cache:
        rows += _store_rows(stats.expert_cache)
    if stats.finished > 1:
        rows.append(("sequences per step", _amount(stats.batch_size)))
        rows.append(("reused tokens of prompts", f"{stats.reused_tokens:,}"))
    return rows


def _draft_rows(stats: EngineStats) -> list[tuple[str, str]]:
    """Return what became of drafts; a head's part is of those that it made itself."""
    pairs = [pair for pair in zip(stats.accepted, stats.drafted, strict=True) if pair[1]]
    parts = ", ".join(f"{accepted / drafted:.1%}" for accepted, drafted in pairs)
    return [
        ("tokens per step", f"{stats.tokens_per_step:.2f}"),
        ("drafts accepted", f"{sum(stats.accepted):,} of {sum(stats.drafted):,}"),
        ("drafts accepted, by head", parts),
        ("time in drafting", f"{stats.draft_seconds:.3f} s"),
    ]


def _store_rows(store: StoreStats) -> list[tuple[str, str]]:
    """Return what an expert store held and read."""
    uses, seconds = store.hits + store.misses, f"{store.wait_seconds:.1f} s"
    share = f" ({store.hits / uses:.1%})" if uses else ""
    return [
        (f"experts held ({store.policy})", f"{store.hits:,} of {uses:,} uses{share}"),
        ("experts read", f"{store.misses:,}, {decimal(store.read_bytes)} in {seconds}"),
        ("expert cache", f"{decimal(store.peak_bytes)} of {decimal(store.max_bytes)}"),
    ]


def finite(value: float) -> float | None:
    """Return a statistic, None if there is none."""
    return None if math.isnan(value) else value


def _seconds(durations: Percentiles) -> str:
    """Return percentiles as text, once if they are one duration."""
    if math.isnan(durations.p50):
        return "none"
    p50, p90, p99 = (f"{seconds:.3f}" for seconds in durations)
    return f"{p50} s" if p50 == p99 else f"{p50} s, p90 {p90}, p99 {p99}"


def _amount(value: float, unit: str = "") -> str:
    return "none" if math.isnan(value) else f"{value:.1f} {unit}".rstrip()
