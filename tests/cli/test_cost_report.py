"""The report of a cost ledger shows every number in its place."""

import json
from dataclasses import replace

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cli.cost_report import described, report
from mimo_v2_flash.cli.result import write_json
from mimo_v2_flash.costs.ledger import Ledger, LedgerEntry, StepTime, prompt_seconds
from mimo_v2_flash.costs.lower_bound import LowerBound
from mimo_v2_flash.costs.projection import RooflineTime
from mimo_v2_flash.costs.step_programs import Deployment
from mimo_v2_flash.execution.program_cost import Collective, Matmul, ProgramCost, Temporary
from mimo_v2_flash.parallel_config import ParallelConfig

DEPLOYMENT = Deployment(MiMoConfig(), ParallelConfig(32, 4, 8), 16, 1000, 300)
COST = ProgramCost(
    77,
    (Matmul(1, 2, 10**6, 1000),),
    {"w": 2_000_000, "cache.k": 30_000},
    {"cache.k": 1_000},
    40_000,
    (Temporary(50_000, 0),),
    (Collective("all-gather", 32, 6_000_000),),
)
ENTRY = LedgerEntry(
    COST,
    LowerBound(10**9, 1_000_000, 10_000),
    RooflineTime(0.5, 0.25, 0.25),
    2_000_000,
    31_000,
    40_000,
)
STEPS = tuple(
    StepTime(
        tokens, kv_length, {"sliding attention, 2 x 9 tokens": 39}, bound, 2 * bound, bound / 2
    )
    for tokens, kv_length, bound in (
        (300, 256, 1.0),
        (300, 512, 2.0),
        (300, 1000, 4.0),
        (1, 1000, 0.01),
    )
)
LEDGER = Ledger({"sliding attention, 2 x 9 tokens": ENTRY}, STEPS)


def test_every_step_has_its_line_and_the_fullest_their_programs(capsys):
    report(DEPLOYMENT, LEDGER)
    stdout = " ".join(capsys.readouterr().out.split())
    assert stdout.startswith(described(DEPLOYMENT))
    row = "sliding attention 39 77 4.00 4.0 2.0 MB 2.0 31.0 kB 3.0 40.0 kB 6.0 MB 50.0 kB 750000"
    assert stdout.count(row) == 2
    assert "300 tokens per sequence, KV length 1000" in stdout
    assert "1 token per sequence, KV length 1000" in stdout
    assert "300 256 500.00 1000.00 4800 2000.00" in stdout
    assert "1 1000 5.00 10.00 1600 20.00" in stdout
    assert "A prompt of 1000 tokens, in chunks of 300: projected 11000 ms" in stdout


def test_a_prompt_is_the_sum_of_its_chunks():
    """Chunks start at 0, 300, 600 and 900: with KV lengths 256, 512, 1000 and 1000."""
    assert prompt_seconds(LEDGER, DEPLOYMENT) == pytest.approx(1 + 2 + 4 + 4)


def test_a_chunk_that_starts_where_a_bucket_ends_looks_no_further():
    steps = tuple(step._replace(tokens=256 if step.tokens > 1 else 1) for step in STEPS)
    deployment = replace(DEPLOYMENT, chunk=256)
    assert prompt_seconds(Ledger({}, steps), deployment) == pytest.approx(1 + 1 + 2 + 4)


def test_a_deployment_is_one_line():
    assert described(DEPLOYMENT) == (
        "32 ranks: expert parallel 32, tensor parallel 4, data parallel 8; "
        "16 sequences of 1000 tokens; weights fp8"
    )


def test_all_numbers_are_returned(tmp_path):
    file = tmp_path / "ledger.json"
    write_json(report(DEPLOYMENT, LEDGER).numbers, file)
    numbers = json.loads(file.read_text())
    program = numbers["programs"]["sliding attention, 2 x 9 tokens"]
    assert (program["operations"], program["least"]["operations"]) == (4 * 10**9, 10**9)
    assert program["exchanges"] == [{"kind": "all-gather", "ranks": 32, "sent": 6_000_000}]
    assert program["seconds"]["bound"] == 0.75
    assert [step["filled"] for step in numbers["steps"]] == [256, 512, 1000, 1000]
    assert numbers["constants"]["bytes_per_second"] == 725e9
    assert (numbers["cache"], numbers["weights"], numbers["plan"]["devices"]) == (
        "bfloat16",
        "fp8",
        32,
    )


def test_a_plot_is_drawn(tmp_path):
    report(DEPLOYMENT, LEDGER, plot=tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 1000
