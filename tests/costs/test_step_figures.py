"""The figures of a step: each term by hand, and what they are of."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.ledger import Ledger, LedgerEntry, StepTime
from mimo_v2_flash.costs.lower_bound import LowerBound
from mimo_v2_flash.costs.projection import RooflineTime
from mimo_v2_flash.costs.step_figures import (
    decode_figures,
    decode_instructions,
    draft_figures,
    prefill_figures,
)
from mimo_v2_flash.execution.program_cost import Collective, ProgramCost
from mimo_v2_flash.layers.program_size import machine_instructions
from mimo_v2_flash.parallel_config import ParallelConfig

DEPLOYMENT = Deployment(MiMoConfig(), ParallelConfig(64, 4, 16), 30, 1000, 300, draft_tokens=3)
COST = ProgramCost(1, (), {}, {}, 0, (), (Collective("all-gather", 64, 0),) * 5)


def entry(collectives: int, layers: int) -> LedgerEntry:
    cost = COST._replace(collectives=COST.collectives[:1] * collectives)
    return LedgerEntry(cost, LowerBound(0, 0, 0), RooflineTime(), 0, 0, 0, layers)


ENTRIES = {"layers": entry(96, 24), "head": entry(2, 0), "embedding": entry(0, 0)}
ENTRIES |= {"MTP head": entry(2, 1), "block": entry(3, 1)}
DECODE = {"embedding": 1, "layers": 2, "head": 1}
STEPS = (
    StepTime(300, 256, {"embedding": 1, "block": 96, "head": 1}, 0.25, 0.5, 0.125),
    StepTime(300, 1000, {"embedding": 1, "block": 96, "head": 1}, 0.5, 1.0, 0.125),
    StepTime(4, 1000, DECODE, 0.016, 0.020, 0.008),
    StepTime(1, 256, DECODE, 0.001, 0.001, 0.001),
    StepTime(1, 1000, DECODE, 0.014, 0.015, 0.010),
)
DRAFTING = StepTime(6, 128, {"MTP head": 3, "head": 3}, 0.002, 0.003, 0.001)
LEDGER = Ledger(ENTRIES, STEPS, DRAFTING)


def test_a_decode_step_is_the_longest_of_one_token():
    figures = decode_figures(LEDGER, DEPLOYMENT)
    assert (figures.tokens, figures.launches, figures.exchanges) == (30, 4, 2 * 96 + 2)
    assert figures.layer_exchanges == 4  # the head's are no layer's
    assert (figures.least, figures.roofline) == (0.010, 0.014)
    assert figures.operations == pytest.approx(0.001)
    assert 1e3 * figures.bound == pytest.approx(14 + 4 * 0.2)
    assert 1e3 * figures.slow_bound == pytest.approx(14 + 4 * 3)
    assert 1e6 * figures.mean_exchanges == pytest.approx(194 * (62 - 17.5))
    assert figures.tokens_per_second == pytest.approx(30 / 0.0148)


def test_what_is_expected_is_the_published_range_and_further_launches():
    quickest, slowest = decode_figures(LEDGER, DEPLOYMENT).expected
    assert 1e3 * quickest == pytest.approx(14 / 0.25 + 3 * 0.2)
    assert 1e3 * slowest == pytest.approx(14 / 0.07 + 3 * 3)
    wide = replace(DEPLOYMENT, weight_dtype="bfloat16")
    quickest, slowest = decode_figures(LEDGER, wide).expected
    assert 1e3 * quickest == pytest.approx(14 / 0.57 + 3 * 0.2)
    assert 1e3 * slowest == pytest.approx(14 / 0.14 + 3 * 3)


def test_drafts_are_priced_in():
    """A sequence has 2.8 tokens of the step that verifies three drafts, and of drafting them."""
    figures = draft_figures(LEDGER, DEPLOYMENT)
    assert figures.launches == 4 + 6
    assert figures.layer_exchanges == 4  # those of MTP heads are in `exchanges`
    assert figures.exchanges == 194 + 12
    assert 1e3 * figures.bound == pytest.approx(16 + 2 + 10 * 0.2)
    assert figures.tokens_per_second == pytest.approx(2.8 * 30 / 0.020)


def test_no_figure_is_invented_for_fewer_drafts():
    assert draft_figures(LEDGER, replace(DEPLOYMENT, draft_tokens=2)) is None
    assert draft_figures(LEDGER._replace(drafting=None), DEPLOYMENT) is None


def test_a_prefill_is_every_chunk_of_all_prompts():
    """Chunks start at 0, 300, 600 and 900: with KV lengths 256, 1000, 1000 and 1000."""
    figures = prefill_figures(LEDGER, DEPLOYMENT)
    assert (figures.tokens, figures.launches) == (30 * 1000, 4 * 98)
    assert figures.layer_exchanges == 96 * 3 / 48
    assert figures.roofline == pytest.approx(0.25 + 3 * 0.5)
    assert figures.least == pytest.approx(4 * 0.125)


@given(st.integers(1, 256))
def test_instructions_are_of_the_largest_program_and_of_all_ranks_tokens(batch):
    deployment = replace(DEPLOYMENT, batch_size=batch)
    rows = -(-batch // 16) * 16
    assert decode_instructions(LEDGER, deployment) == machine_instructions(24, rows)
