"""Tests of visibility in full and sliding-window attention: no masked value matters."""

import numpy as np
import pytest
from hypothesis import given

from tests.support.attentions import assert_same, both
from tests.support.drawn import FLOATS
from tests.support.steps import Step, random_step, steps

RAGGED = {"starts": (9, 0, 4), "counts": (6, 4, 1), "S": 11}
LARGEST = 3e38


def first_tokens(step: Step, count: int) -> Step:
    return Step(*(part[:, :count] for part in step[:4]), *step[4:])


@both
@given(step=steps())
def test_padding_gives_zeros(attention, step):
    y_BTHC = attention(*step)
    assert not y_BTHC[step.position_BT < 0].any()


@both
def test_padding_influences_nobody(attention):
    step = random_step(starts=(7,), counts=(4,), T=6, S=5)
    unpadded = first_tokens(step, 4)
    assert_same(attention(*step)[:, :4], attention(*unpadded))
    step.k_BTKQ[:, 4:], step.v_BTKC[:, 4:] = np.nan, LARGEST
    with np.errstate(invalid="ignore"):
        assert_same(attention(*step)[:, :4], attention(*unpadded))


@both
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, LARGEST])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_masked_slot_has_no_influence(attention, poison, dtype):
    step = random_step(**RAGGED, dtype=dtype)
    before = attention(*step)
    start_B1 = step.position_BT[:, :1]
    masked_BS = (step.prior_position_BS < 0) | (step.prior_position_BS >= start_B1)
    assert masked_BS.any()
    step.prior_k_BSKQ[masked_BS] = poison
    step.prior_v_BSKC[masked_BS] = np.copysign(LARGEST, poison)
    with np.errstate(invalid="ignore", over="ignore"):
        np.testing.assert_array_equal(attention(*step), before)


@both
def test_stale_drafts_are_empty_slots(attention):
    step = random_step(**RAGGED)
    stale_BS = step.prior_position_BS >= step.position_BT[:, :1]
    assert stale_BS.any()
    emptied_BS = np.where(stale_BS, np.int32(-1), step.prior_position_BS)
    np.testing.assert_array_equal(
        attention(*step), attention(*step._replace(prior_position_BS=emptied_BS))
    )


@both
def test_what_the_cache_holds_before_the_step_matters(attention):
    step = random_step(starts=(4,), T=2, S=4)
    step.prior_position_BS[:] = np.arange(4)
    before = attention(*step)
    step.prior_v_BSKC[:, 3] += 1
    assert (np.abs(attention(*step) - before) > 1e-3).all()


@both
@pytest.mark.parametrize("later", range(1, 6))
def test_a_later_token_changes_nothing_earlier(attention, later):
    step = random_step(starts=(7,), S=5)
    before = attention(*step)
    for part in step[:3]:
        part[:, later:] += 1
    after = attention(*step)
    np.testing.assert_array_equal(after[:, :later], before[:, :later])
    assert (after[:, later] != before[:, later]).any()


@both
@pytest.mark.parametrize("poison", [np.nan, np.inf, LARGEST])
def test_a_later_key_may_hold_anything(attention, poison):
    step = random_step(starts=(7,), S=5)
    before = attention(*step)
    step.k_BTKQ[:, 4:], step.v_BTKC[:, 4:] = poison, LARGEST
    with np.errstate(invalid="ignore", over="ignore"):
        np.testing.assert_array_equal(attention(*step)[:, :4], before[:, :4])
