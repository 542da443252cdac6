"""The report of expert dispatch shows what every rank recorded."""

import numpy as np
import pytest

from mimo_v2_flash.cli.console import console
from mimo_v2_flash.cli.dispatch_report import _spread, dispatch_numbers, dispatch_report
from mimo_v2_flash.layers.dispatch_stats import DispatchStats, DispatchStatsBackend
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.spread import favouring
from tests.support.tiny import KINDS, Recipe, random_tokens, running, tiny

SPARSE = (KINDS[1], KINDS[3])


def report_lines(model, plan, program, capsys) -> list[str]:
    """Return the lines of a run's report; every rank has the same."""
    group = ThreadGroup(plan.world_size)

    def on_rank(rank: int):
        record = DispatchStatsBackend()
        program(running(model, group=group, plan=plan, backend=record))
        return dispatch_report(record, group)

    console().print(group.run(on_rank)[0])
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_a_prompt_and_its_continuation_use_two_dispatchers(capsys):
    """A prompt of 40 tokens goes to rank 0 by all_to_all; two single tokens by all_gather."""
    model = tiny(Recipe(layers=SPARSE, experts=8, experts_per_token=4))
    model = favouring(model, slice(0, 4))
    prompt = random_tokens(model, 40)
    lines = report_lines(
        model,
        ParallelConfig(2, 1, 2),
        lambda ours: ours.generate([prompt], max_new_tokens=3, eos_token_id=[]),
        capsys,
    )
    assert lines[0] == "Experts on 2 ranks"
    for line in (
        "what all_gather all_to_all",
        "steps x layers 4 2",
        "tokens per step, all ranks 1.0 40.0",
        # D = 23, A = 4; the second rank has the only row of the batch.
        "sent per token and layer 432 bytes 216 bytes",
        "lower bound 184 bytes 184 bytes",
        "sent / lower bound 2.35 1.17",
        "(token, expert) pairs: routed, dropped 16, 0 320, 0",
        "tokens per expert: mean, p99, max 0.5, 1, 1 20.0, 40, 40",
        "tokens per rank: mean, p99, max 0.5, 1, 1 20.0, 40, 40",
    ):
        assert line in lines
    assert sum(line.startswith("time in ") and line.endswith(" s") for line in lines) == 2


def test_the_numbers_are_those_of_the_table():
    model = favouring(tiny(Recipe(layers=SPARSE, experts=8, experts_per_token=4)), slice(0, 4))
    group, plan = ThreadGroup(2), ParallelConfig(2, 1, 2)

    def on_rank(rank: int) -> dict:
        record = DispatchStatsBackend()
        ours = running(model, group=group, plan=plan, backend=record)
        ours.generate([random_tokens(model, 40)], max_new_tokens=3, eos_token_id=[])
        return dispatch_numbers(record, group)

    first, second = group.run(on_rank)
    assert first == second
    assert {name: numbers["routed_pairs"] for name, numbers in first.items()} == {
        "all_gather": 16, "all_to_all": 320,
    }  # fmt: skip
    sent = first["all_to_all"]
    assert (sent["dispatched_tokens"], sent["computed_pairs"]) == (80, 320)
    assert (sent["sent_bytes"], sent["lower_bound_bytes"]) == (80 * 216, 80 * 184)
    assert dispatch_numbers(DispatchStatsBackend(), SoloGroup()) == {}


def test_a_dispatcher_that_needs_to_send_nothing_says_so(capsys):
    """No token is sent: the only row is on the rank that holds the chosen experts."""
    model = tiny(Recipe(layers=SPARSE, experts=8, experts_per_token=4))
    lines = report_lines(
        favouring(model, slice(4, 8)),
        ParallelConfig(2, 1, 2),
        lambda ours: ours.forward(random_tokens(model, 1, 50)),
        capsys,
    )
    assert "sent / lower bound none needed" in lines
    assert "sent per token and layer 0 bytes" in lines


def test_alone_or_without_experts_there_is_nothing_to_say():
    assert dispatch_report(DispatchStatsBackend(), SoloGroup()) is None
    group = ThreadGroup(2)
    assert group.run(lambda _: dispatch_report(DispatchStatsBackend(), group)) == [None, None]


def test_dropped_pairs_are_counted(capsys):
    record, group = DispatchStatsBackend(), ThreadGroup(2)
    loads = np.array([0.0, 1.0])
    stats = DispatchStats(
        calls=1, tokens=2, pairs=8, computed=7, tokens_per_expert=loads, tokens_per_rank=loads
    )
    record.by_dispatcher["all_gather"] = stats
    console().print(group.run(lambda _: dispatch_report(record, group))[0])
    assert "16, 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("loads", "spread"),
    [
        ([7], "7.0, 7, 7"),
        ([0] * 99 + [50], "0.5, 0, 50"),
        ([0] * 98 + [50, 60], "1.1, 50, 60"),
        (range(1000), "499.5, 989, 999"),
        ([0, 0, 0], "0.0, 0, 0"),
    ],
)
def test_mean_99th_percentile_and_most(loads, spread):
    assert _spread(np.append(np.bincount(loads), [0, 0])) == spread
