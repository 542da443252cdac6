"""Five collectives or two: published figures, and the collectives of traced programs."""

from dataclasses import replace

import ml_dtypes
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.layers.exchange_choice import five_exchanges, replicates, two_exchanges
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.config_files import SMALL

DENSE, EXPERTS = MiMoConfig().layers[:2]
PLANS = {32: ParallelConfig(32, 4, 8), 64: ParallelConfig(64, 4, 16)}


def test_32_tokens_on_32_ranks_take_55_instead_of_96_microseconds():
    plan = PLANS[32]
    assert 1e6 * five_exchanges(EXPERTS, plan, 4, 2) == pytest.approx(96.4, abs=0.1)
    assert 1e6 * two_exchanges(EXPERTS, plan, 4) == pytest.approx(55.3, abs=0.1)


@pytest.mark.parametrize(("ranks", "batch"), [(32, 128), (64, 128)])
def test_few_tokens_have_two_and_many_five(ranks, batch):
    plan = PLANS[ranks]
    rows = batch // plan.data_parallel_size
    assert replicates(EXPERTS, plan, rows, 2)
    assert not replicates(EXPERTS, plan, 2 * rows, 2)


@given(st.sampled_from(list(PLANS.values())), st.integers(1, 100), st.sampled_from([2, 4]))
def test_once_five_are_quicker_they_stay_so(plan, parts, itemsize):
    """More tokens, in whole parts for every rank of a tensor group."""
    if not replicates(EXPERTS, plan, 4 * parts, itemsize):
        assert not replicates(EXPERTS, plan, 4 * parts + 4, itemsize)


def test_dense_layers_and_single_ranks_have_nothing_to_choose():
    assert not replicates(DENSE, PLANS[32], 1, 2)
    assert not replicates(EXPERTS, ParallelConfig(), 1, 2)


CONFIG = replace(SMALL, num_key_value_heads=2, swa_num_key_value_heads=4, intermediate_size=256)


@pytest.mark.nkipy
@pytest.mark.parametrize(
    "plan", [ParallelConfig(4, 2, 2), ParallelConfig(4, 1, 4), ParallelConfig(2, 2, 2)], ids=str
)
def test_traced_programs_have_the_collectives_that_were_compared(plan):
    pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
    from mimo_v2_flash.costs.deployment import Deployment
    from mimo_v2_flash.costs.ledger import ledger
    from mimo_v2_flash.costs.step_programs import decode_sizes

    sizes = {"activation_dtype": ml_dtypes.bfloat16, "chunk": 16, "context": 64}
    deployment = Deployment(CONFIG, plan, 4 * plan.data_parallel_size, **sizes)
    spec = next(spec for spec in CONFIG.layers if spec.num_experts)
    single = ledger(replace(deployment, layers_per_program=1), decode_sizes)
    (entry,) = (e for name, e in single.entries.items() if "sliding attention + experts" in name)
    assert entry.seconds.collectives == pytest.approx(five_exchanges(spec, plan, 4, 2))
    ranges = ledger(deployment, decode_sizes)
    (entry,) = (e for name, e in ranges.entries.items() if "replicated layers" in name)
    sparse = [spec.num_experts > 0 for spec in CONFIG.layers]
    of_dense = 1 + (plan.tensor_parallel_size > 1)
    assert len(entry.cost.collectives) == sum(2 if each else of_dense for each in sparse)
    assert entry.seconds.collectives > sum(sparse) * two_exchanges(spec, plan, 4)
