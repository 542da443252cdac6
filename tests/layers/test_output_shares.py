"""output_shares: what ranks computed lies in its place on rank 0, and nothing else is sent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.head import GreedyTokens, Logits
from mimo_v2_flash.layers.output_shares import gather_outputs
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import InstrumentedGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.drawn import seeds
from tests.support.tiny import tiny

CONFIG = tiny().config
V = CONFIG.vocab_size
PLANS = [
    ParallelConfig(*sizes) for sizes in ((2, 1, 2), (2, 2, 1), (4, 2, 2), (3, 1, 3), (8, 4, 2))
]


def gathered(plan, kind, expected, is_wanted_Bn, is_bad_B):
    """Return rank 0's outputs, and the bytes that each rank sent; a rank knows its part alone."""
    group = ThreadGroup(plan.world_size)

    def program(rank: int):
        world = InstrumentedGroup(group)
        context = ParallelContext(plan, world)
        output = kind(CONFIG, NumpyBackend(), context)
        outputs = output.allocate(is_wanted_Bn.shape)
        rank_rows = context.rank_rows(len(is_wanted_Bn))
        rows = rank_rows[context.data_parallel_rank]
        local = np.zeros_like(is_wanted_Bn)
        local[rows] = is_wanted_Bn[rows]
        pairs = zip(output.parts(outputs, rank), output.parts(expected, rank), strict=True)
        for part, values in pairs:
            part[local] = values[local]
        world.stats.clear()
        gather_outputs(output, outputs, is_bad_B[rows], is_wanted_Bn, rank_rows, context)
        ((name, stats),) = world.stats.items()
        assert (name, stats.calls) == ("ragged_all_to_all", 1)
        return outputs, stats.sent

    results = group.run(program)
    return results[0][0], [sent for _, sent in results]


@settings(max_examples=20)
@given(st.data(), st.sampled_from(PLANS), st.sampled_from([Logits, GreedyTokens]), seeds)
def test_every_part_is_put_into_its_place(data, plan, kind, seed):
    random = np.random.default_rng(seed)
    B, n = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    is_wanted_Bn = random.random((B, n)) < data.draw(st.sampled_from([0.0, 0.4, 1.0]))
    is_bad_B = random.random(B) < data.draw(st.sampled_from([0.0, 0.3]))
    if kind is Logits:
        expected = (random.standard_normal((B, n, V)).astype(np.float32),)
    else:
        tokens_Bn = random.integers(0, V, (B, n)).astype(np.int32)
        expected = tokens_Bn, random.standard_normal((B, n)).astype(np.float32)
    outputs, sent = gathered(plan, kind, expected, is_wanted_Bn, is_bad_B)
    assert sent[0] == 0
    for index, (array, values) in enumerate(zip(outputs, expected, strict=True)):
        is_good_Bn = is_wanted_Bn
        if index == len(outputs) - 1:
            assert np.isnan(array[is_bad_B]).all()
            is_good_Bn = is_wanted_Bn & ~is_bad_B[:, None]
        np.testing.assert_array_equal(array[is_good_Bn], values[is_good_Bn])
        assert not np.any(array[~is_wanted_Bn & ~is_bad_B[:, None]])


@pytest.mark.parametrize("rank", [1, 3])
def test_what_one_rank_alone_finds_bad_is_bad(rank):
    """Ranks that share heads see the same rows."""
    plan, group = ParallelConfig(4, 2, 2), ThreadGroup(4)

    def program(at: int):
        context = ParallelContext(plan, group)
        output = Logits(CONFIG, NumpyBackend(), context)
        outputs, rank_rows = output.allocate((4, 1)), context.rank_rows(4)
        is_bad_b = np.array([False, at == rank])
        gather_outputs(output, outputs, is_bad_b, np.ones((4, 1), bool), rank_rows, context)
        return np.isnan(outputs[0]).all(axis=(1, 2)).tolist()

    expected = [False, rank == 1, False, rank == 3]
    assert group.run(program)[0] == expected
