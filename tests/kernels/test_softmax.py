"""Tests of softmax: against its reference, sinks, and masked scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.softmax import NO_SINK, softmax
from mimo_v2_flash.reference import softmax as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import FLOATS, tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

# Scores are the output of a matmul, always float32; sinks have the dtype of the weights.
rows = tensors("score_BKGTS", "visible_BTS", "sink_H", dtypes=st.just(FLOATS[0]))
GOOD = {
    "score_BKGTS": np.zeros((2, 3, 2, 4, 5), np.float32),
    "visible_BTS": np.ones((2, 4, 5), np.bool_),
    "sink_H": np.zeros(6, np.float32),
}


def no_sinks(sink_H) -> np.ndarray:
    return np.full(sink_H.shape, NO_SINK, np.float32)


@every_kind
@given(rows, st.sampled_from(FLOATS))
def test_it_is_its_oracle(on, drawn, sink_dtype):
    score_BKGTS, visible_BTS, sink_H = drawn
    drawn = score_BKGTS, visible_BTS, sink_H.astype(sink_dtype)
    assert_agrees(on(softmax)(*drawn), oracle.softmax(*drawn), scale=1)


@given(rows)
def test_a_row_sums_to_what_the_sink_leaves(drawn):
    score_BKGTS, visible_BTS, sink_H = drawn
    assert (np.sum(softmax(*drawn), axis=-1) <= 1 + 1e-6).all()
    total_BKGT = np.sum(softmax(score_BKGTS, visible_BTS, no_sinks(sink_H)), axis=-1)
    sees_BKGT = np.broadcast_to(visible_BTS.any(-1)[:, None, None], total_BKGT.shape)
    np.testing.assert_allclose(total_BKGT, sees_BKGT.astype(np.float32), atol=1e-6)


@given(rows)
def test_a_sink_only_shrinks(drawn):
    score_BKGTS, visible_BTS, sink_H = drawn
    without = softmax(score_BKGTS, visible_BTS, no_sinks(sink_H))
    assert (softmax(*drawn) <= without + 1e-7).all()


@given(rows, st.floats(-10, 10, width=32))
def test_scores_and_sink_may_move_together(drawn, shift):
    score_BKGTS, visible_BTS, sink_H = drawn
    shifted = softmax(score_BKGTS + np.float32(shift), visible_BTS, sink_H + np.float32(shift))
    np.testing.assert_allclose(shifted, softmax(*drawn), atol=2e-5)


@pytest.mark.parametrize("S", [1, 7, 100])
def test_a_sink_of_log_n_weighs_as_much_as_n_keys_of_score_zero(S):
    weight_BKGTS = softmax(
        np.zeros((1, 1, 1, 1, S), np.float32),
        np.ones((1, 1, S), np.bool_),
        np.full(1, np.log(S), np.float32),
    )
    np.testing.assert_allclose(weight_BKGTS, 0.5 / S, rtol=1e-6)


def test_query_head_h_has_sink_h():
    tensors = GOOD | {"sink_H": np.arange(6, dtype=np.float32)}
    weight_BKGTS = softmax(**tensors)
    total_H = np.sum(weight_BKGTS, axis=-1)[0, :, :, 0].reshape(6)
    np.testing.assert_allclose(total_H, 5 / (5 + np.exp(np.arange(6))), rtol=1e-6)


@given(rows, st.sampled_from([np.nan, np.inf, -np.inf, 1e30, -3e38]))
def test_a_masked_score_has_no_influence(drawn, poison):
    score_BKGTS, visible_BTS, sink_H = drawn
    poisoned = np.where(visible_BTS[:, None, None], score_BKGTS, np.float32(poison))
    np.testing.assert_array_equal(softmax(poisoned, visible_BTS, sink_H), softmax(*drawn))


@pytest.mark.parametrize("sink", [-np.inf, NO_SINK, -3.0, 0.0, 50.0])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_row_that_sees_nothing_is_zero(sink, dtype):
    tensors = GOOD | {
        "visible_BTS": np.zeros((2, 4, 5), np.bool_),
        "sink_H": np.full(6, sink, dtype),
    }
    assert not softmax(**tensors).any()


@pytest.mark.parametrize("score", [-1e4, 1e4, 1e25])
def test_large_scores_do_not_overflow(score):
    tensors = GOOD | {
        "score_BKGTS": np.full((2, 3, 2, 4, 5), score, np.float32),
        "sink_H": np.full(6, NO_SINK, np.float32),
    }
    np.testing.assert_allclose(softmax(**tensors), 0.2, rtol=1e-6)


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"softmax: .*\b{name}\b"):
        softmax(**(GOOD | {name: wrong}))
