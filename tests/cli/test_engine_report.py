"""engine_report: every statistic for programs, rates and latencies for people."""

import json
import math

import pytest

from mimo_v2_flash.cli.engine_report import engine_numbers, engine_rows, finite
from mimo_v2_flash.engine.memory_budget import MemoryUsage
from mimo_v2_flash.engine.stats import EngineStats, Percentiles, StatsRecorder
from mimo_v2_flash.expert_store import StoreStats

NOTHING = StatsRecorder().snapshot(0, 0, 0, MemoryUsage(0, 0, 0, 0, None))
STATS = NOTHING._replace(
    finished=2,
    reused_tokens=1234,
    prefill_tokens_per_second=12.34,
    decode_tokens_per_second=5.0,
    first_token_seconds=Percentiles(0.5, 1.0, 2.0),
    token_seconds=Percentiles(0.25, 0.25, 0.25),
    batch_size=3.21,
)


def test_programs_get_every_statistic():
    numbers = engine_numbers(STATS)
    assert tuple(numbers) == EngineStats._fields
    assert numbers["first_token_seconds"] == {"p50": 0.5, "p90": 1.0, "p99": 2.0}
    assert numbers["batch_size"] == 3.21
    assert math.isnan(engine_numbers(NOTHING)["token_seconds"]["p99"])
    assert json.loads(json.dumps(numbers))["reused_tokens"] == 1234


def test_people_get_rates_and_latencies():
    assert engine_rows(STATS) == [
        ("time to first token", "0.500 s, p90 1.000, p99 2.000"),
        ("time between tokens", "0.250 s"),
        ("prefill", "12.3 tokens/s"),
        ("decode", "5.0 tokens/s"),
        ("sequences per step", "3.2"),
        ("reused tokens of prompts", "1,234"),
    ]


def test_an_expert_store_is_reported_where_there_is_one():
    store = StoreStats("lfu", True, 30, 10, 4, 2, 5_000_000, 1.25, 390_000, 400_000, 8_000_000)
    stats = STATS._replace(expert_cache=store)
    rows = engine_rows(stats)
    assert rows[4:7] == [
        ("experts held (lfu)", "30 of 40 uses (75.0%)"),
        ("experts read", "10, 5.0 MB in 1.2 s"),
        ("expert cache", "400.0 kB of 8.0 MB"),
    ]
    assert [row for row in rows if row not in rows[4:7]] == engine_rows(STATS)
    assert engine_numbers(stats)["expert_cache"]["read_bytes"] == 5_000_000
    unused = store._replace(hits=0, misses=0)
    assert ("experts held (lfu)", "0 of 0 uses") in engine_rows(stats._replace(expert_cache=unused))


def test_drafts_are_reported_where_there_are_some():
    drafts = {"drafted": (1000, 500, 0), "accepted": (577, 125, 0), "draft_seconds": 0.25}
    rows = engine_rows(STATS._replace(tokens_per_step=2.345, **drafts))
    assert rows[4:8] == [
        ("tokens per step", "2.35"),
        ("drafts accepted", "702 of 1,500"),
        ("drafts accepted, by head", "57.7%, 25.0%"),
        ("time in drafting", "0.250 s"),
    ]
    assert [row for row in rows if row not in rows[4:8]] == engine_rows(STATS)


@pytest.mark.parametrize("finished", [0, 1])
def test_one_answer_shares_nothing_and_what_was_not_measured_is_none(finished):
    rows = dict(engine_rows(NOTHING._replace(finished=finished)))
    assert len(rows) == 4
    assert set(rows.values()) == {"none"}
    assert finite(float("nan")) is None
    assert finite(1.5) == 1.5
