"""Tests of full and sliding-window attention alike: heads, sinks, scores, blocks, chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kernels.attention_swa import attention_swa
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.reference import attention_swa as oracle
from tests.support.agreement import assert_agrees
from tests.support.attentions import assert_same, both
from tests.support.drawn import FLOATS
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes
from tests.support.steps import Step, random_step, steps

KEYS_AND_VALUES = "k_BTKQ", "v_BTKC", "prior_k_BSKQ", "prior_v_BSKC"
GOOD = random_step(starts=(3, 3), S=5)._asdict()
float32_steps = steps(dtypes=st.just(FLOATS[0]))


def row(step: Step, b: int) -> Step:
    return Step(*(part[b : b + 1] for part in step[:-1]), step.sink_H)


def split(step: Step, at: int, order) -> Step:
    """Return the step from token `at` on, with the tokens before it in the cache, in `order`."""
    before, active = ([part[:, side] for part in step[:4]] for side in (np.s_[:at], np.s_[at:]))
    stale_BS = step.prior_position_BS >= step.position_BT[:, :1]  # and so overwritten
    prior = *step[4:6], np.where(stale_BS, np.int32(-1), step.prior_position_BS)
    pairs = zip(prior, before[1:], strict=True)
    prior = (np.concatenate(pair, axis=1)[:, order] for pair in pairs)
    return Step(*active, *prior, step.sink_H)


@both
@given(step=float32_steps, query_block=st.integers(1, 9))
def test_blocks_do_not_change_the_answer(attention, step, query_block):
    assert_same(attention(*step, query_block=query_block), attention(*step, query_block=100))


@every_kind
@settings(max_examples=60)
@given(step=float32_steps, window=st.integers(1, 9), query_block=st.integers(1, 8))
def test_a_narrow_cache_rounds_nothing_but_itself(on, step, window, query_block):
    narrow = {name: getattr(step, name).astype(FLOATS[1]) for name in KEYS_AND_VALUES}
    step, kwargs = step._replace(**narrow), {"window": window, "query_block": query_block}
    expected = oracle.attention_swa(*step, **kwargs)
    actual = on(attention_swa)(*step, **kwargs)
    assert actual.dtype == np.float32
    assert_agrees(actual, expected, scale=4)


@both
@given(step=float32_steps)
def test_rows_of_a_ragged_batch_do_not_meet(attention, step):
    rows = [attention(*row(step, b)) for b in range(len(step.q_BTHQ))]
    assert_same(attention(*step), np.concatenate(rows))


@both
def test_slots_come_in_any_order(attention):
    step = random_step(starts=(9, 0, 4), counts=(6, 4, 1), S=11)
    order = np.random.default_rng(1).permutation(11)
    shuffled = Step(*step[:4], *(part[:, order] for part in step[4:7]), step.sink_H)
    assert_same(attention(*shuffled), attention(*step))


@both
def test_a_cache_of_no_slots_is_an_empty_cache(attention):
    step = random_step(S=0)
    empty = random_step(1, S=7)
    empty = Step(*step[:4], *empty[4:6], np.full((1, 7), -1, np.int32), step.sink_H)
    assert_same(attention(*step), attention(*empty))


@both
@pytest.mark.parametrize("at", range(1, 8))
def test_a_step_may_be_split_anywhere(attention, at):
    step = random_step(starts=(6, 0), counts=(8, 5), T=8, S=6)
    order = np.random.default_rng(at).permutation(6 + at)
    assert_same(attention(*split(step, at, order)), attention(*step)[:, at:])


@both
def test_query_head_h_looks_at_its_own_key_head(attention):
    step = random_step(K=3, G=2, C=1, sink=NO_SINK)
    step.v_BTKC[:] = np.arange(3)[:, None]
    assert_same(attention(*step)[0, :, :, 0], np.tile([0, 0, 1, 1, 2, 2], (6, 1)))


@both
@pytest.mark.parametrize(("name", "head", "heads"), [("k_BTKQ", 1, [2, 3]), ("q_BTHQ", 4, [4])])
def test_a_head_changes_only_who_looks_at_it(attention, name, head, heads):
    step = random_step(K=3, G=2)
    before = attention(*step)
    getattr(step, name)[:, :, head] *= -1
    (changed,) = np.nonzero((attention(*step) != before).any(axis=(0, 1, 3)))
    np.testing.assert_array_equal(changed, heads)


@both
def test_a_sink_takes_the_share_of_as_many_keys_as_its_exponential(attention):
    step = random_step(T=5, C=1)  # token t sees t + 1 keys, of score 0 and value 1
    step.q_BTHQ[:], step.v_BTKC[:] = 0, 1
    step.sink_H[:] = np.log([1, 2, 3, 4])
    seen_T1, sink_H = np.arange(1, 6)[:, None], np.arange(1, 5)
    assert_same(attention(*step)[0, :, :, 0], seen_T1 / (seen_T1 + sink_H))


@both
def test_no_sink_leaves_an_average(attention):
    step = random_step(sink=NO_SINK)
    step.v_BTKC[:] = 7
    np.testing.assert_allclose(attention(*step), 7, rtol=1e-6)


@both
def test_scores_are_scaled_by_the_width_of_a_head(attention):
    # A token sees scores Q^-0.5 x Q = 4 of itself and 0 of the other: values 1 and 0.
    step = random_step(T=2, K=1, G=1, Q=16, C=1, sink=NO_SINK)
    for part, rows in zip(step[:3], ([1, 1], [0, 1], [0, 1]), strict=True):
        part[:] = np.reshape(rows, (1, 2, 1, 1))
    np.testing.assert_allclose(attention(*step)[0, 1], 1 / (1 + np.exp(-4.0)), rtol=1e-6)


@both
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_answer_has_the_dtype_of_the_queries(attention, dtype):
    step = random_step(starts=(3,), S=3)._replace(q_BTHQ=random_step().q_BTHQ.astype(dtype))
    assert attention(*step).dtype == dtype


@both
@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(attention, name, wrong):
    with pytest.raises(ValueError, match=rf"attention_{attention.__name__}: .*\b{name}\b"):
        attention(*(GOOD | {name: wrong}).values())


@both
def test_query_heads_that_are_no_multiple_of_key_heads_are_refused(attention):
    step = random_step(K=2, G=2)
    step = step._replace(q_BTHQ=step.q_BTHQ[:, :, :3], sink_H=step.sink_H[:3])
    with pytest.raises(ValueError, match="3 query heads are no multiple of 2 KV heads"):
        attention(*step)


@both
def test_an_empty_block_is_refused_by_name(attention):
    with pytest.raises(ValueError, match="query_block 0"):
        attention(*random_step(), query_block=0)
