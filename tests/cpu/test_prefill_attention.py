"""Prefill attention against its float64 oracle, and against itself in other chunks."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu import prefill_attention as loops
from mimo_v2_flash.cpu.prefill_attention import KEY_BLOCK, prefill_attention
from mimo_v2_flash.kernels.attention import NO_WINDOW
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.reference.attention import attention as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import CACHED, CODED, FLOATS, cached, floats, seeds
from tests.support.ring_steps import KEYS_AND_VALUES, decoded, ring_step, stored
from tests.support.steps import Step, random_step

WINDOWS = [1, 2, 5, 129, NO_WINDOW]


def assert_is_oracle(step: Step, window: int) -> None:
    actual = prefill_attention(*step, window=window)
    assert actual.dtype == np.float32
    assert_agrees(actual, oracle(*decoded(step), window=window), scale=4)


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    st.lists(st.integers(-1, 40), min_size=1, max_size=3),
    st.integers(1, KEY_BLOCK + 9),
    st.integers(0, KEY_BLOCK + 9),
    st.tuples(*[st.integers(1, 5)] * 2, st.sampled_from([1, 6, 16, 50]), st.integers(1, 70)),
    cached,
    st.sampled_from(WINDOWS),
    st.sampled_from([None, NO_SINK]),
)
@example(0, [200, 7], 70, 200, (2, 16, 192, 128), FLOATS[1], NO_WINDOW, NO_SINK)
@example(0, [300, 140], 40, 131, (2, 8, 192, 128), FLOATS[0], 129, None)
def test_it_is_the_oracle_whatever_the_order_of_slots(
    seed, starts, T, slots, sizes, dtype, window, sink
):
    (K, G, Q, C), tokens = sizes, [T, T - 1, 1]
    counts = [n * (start >= 0) for n, start in zip(tokens, starts, strict=False)]
    step = random_step(
        seed, starts=starts, counts=counts, T=T, S=slots, K=K, G=G, Q=Q, C=C, sink=sink
    )
    assert_is_oracle(stored(step, dtype), window)


@pytest.mark.parametrize("dtype", CACHED, ids=str)
@pytest.mark.parametrize("start", [0, 1, 127, 128, 129, 131, 132, 133, 262, 400])
def test_a_ring_wraps(start, dtype):
    step = ring_step(start, (start, -1, 131), 132, 132, window=129, T=21, K=2, G=3)
    assert_is_oracle(stored(step, dtype), 129)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(0, 150), st.integers(1, 39), st.integers(1, 3), st.booleans(), floats)
@example(0, 63, 1, 1, True, FLOATS[0])
@example(0, 131, 30, 2, False, FLOATS[1])
def test_a_token_is_to_the_bit_what_it_is_in_another_chunk(seed, start, cut, G, is_full, dtype):
    """A chunk of 40 tokens, and its tokens from `cut` on after those before are cached."""
    slots, window = (192, NO_WINDOW) if is_full else (72, 33)
    step = stored(ring_step(seed, (start,), slots, slots, window=window, T=40, G=G), dtype)
    together = prefill_attention(*step, window=window)
    first, last = (
        Step(*(part[:, side] for part in step[:4]), *step[4:])
        for side in (slice(cut), slice(cut, None))
    )
    np.testing.assert_array_equal(prefill_attention(*first, window=window), together[:, :cut])
    for position in range(start, start + cut):
        for part, new in zip(step[4:7], first[1:4], strict=True):
            part[:, position % slots] = new[:, position - start]
    np.testing.assert_array_equal(prefill_attention(*last, window=window), together[:, cut:])


@pytest.mark.parametrize("dtype", CODED, ids=str)
@settings(max_examples=15, deadline=None)
@given(
    seeds,
    st.integers(0, 70),
    st.integers(1, 40),
    st.sampled_from([1, 6, 50, 192]),
    st.integers(1, 70),
)
def test_codes_are_to_the_bit_the_numbers_that_they_stand_for(dtype, seed, start, T, Q, C):
    step = stored(ring_step(seed, (start, 3), 72, 72, window=33, T=T, G=3, Q=Q, C=C), dtype)
    expected = prefill_attention(*decoded(step), window=33)
    np.testing.assert_array_equal(prefill_attention(*step, window=33), expected)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q_BTHQ", *KEYS_AND_VALUES])
def test_bad_numbers_stay_in_their_sequence(name, poison):
    step = ring_step(0, (9, 40, 3), 60, 40, window=NO_WINDOW, K=1, T=20)
    before = prefill_attention(*step, window=NO_WINDOW)
    getattr(step, name)[1, 0] = poison
    after = prefill_attention(*step, window=NO_WINDOW)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    if "v_B" in name or np.isnan(poison):
        assert not np.isfinite(after[1, 0]).any()


def test_tokens_that_are_padding_are_zero():
    step = random_step(0, starts=(30, 4), counts=(20, 0), T=20, S=30, sink=NO_SINK)
    y_BTHC = prefill_attention(*step, window=NO_WINDOW)
    assert y_BTHC[0].all()
    assert not y_BTHC[1].any()


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    step = ring_step(0, (90, -1, 30), 91, 90, window=NO_WINDOW, T=50, K=3, G=2)
    expected = prefill_attention(*step, window=NO_WINDOW)
    tasks = []
    monkeypatch.setattr(loops, "MIN_SHARED_WORK", 0)
    monkeypatch.setattr(loops, "TASK_ROWS", 16)

    def in_any_order(work, count):
        tasks.append(count)
        for task in np.random.default_rng(0).permutation(count):
            work(int(task))

    monkeypatch.setattr(loops, "parallel_for", in_any_order)
    np.testing.assert_array_equal(prefill_attention(*step, window=NO_WINDOW), expected)
    assert tasks == [3 * 3 * 7]
