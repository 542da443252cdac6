"""Decode attention against its float64 oracle and itself alone, and its tasks on many threads."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu import decode_attention as loops
from mimo_v2_flash.cpu.decode_attention import KEY_BLOCK, decode_attention, task_edges
from mimo_v2_flash.kernels.attention import NO_WINDOW
from mimo_v2_flash.kernels.softmax import NO_SINK
from mimo_v2_flash.reference.attention import attention as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import CACHED, CODED, FLOATS, cached, floats, seeds
from tests.support.ring_steps import KEYS_AND_VALUES, decoded, ring_step, stored
from tests.support.steps import Step, random_step

WINDOWS = [1, 2, 5, 129, NO_WINDOW]


def assert_is_oracle(step: Step, window: int) -> None:
    actual = decode_attention(*step, window=window)
    assert actual.dtype == np.float32
    assert_agrees(actual, oracle(*decoded(step), window=window), scale=4)


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.lists(st.integers(-1, 40), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(0, 3 * KEY_BLOCK + 1),
    st.tuples(*[st.integers(1, 5)] * 2, st.sampled_from([1, 6, 16, 50]), st.integers(1, 70)),
    cached,
    st.sampled_from(WINDOWS),
    st.sampled_from([None, NO_SINK]),
)
@example(0, [200, 7], 1, 200, (2, 16, 192, 128), FLOATS[1], NO_WINDOW, NO_SINK)
@example(0, [300, 140], 4, 131, (8, 8, 192, 128), FLOATS[0], 129, None)
@example(0, [300, 140], 2, 131, (8, 8, 192, 128), FLOATS[1], 129, None)
def test_it_is_the_oracle_whatever_the_order_of_slots(
    seed, starts, T, slots, sizes, dtype, window, sink
):
    (K, G, Q, C), tokens = sizes, [T, T - 1, 1, T]
    step = random_step(
        seed,
        starts=starts,
        counts=[n * (start >= 0) for n, start in zip(tokens, starts, strict=False)],
        T=T,
        S=slots,
        K=K,
        G=G,
        Q=Q,
        C=C,
        sink=sink,
    )
    assert_is_oracle(stored(step, dtype), window)


@pytest.mark.parametrize("dtype", CACHED, ids=str)
@pytest.mark.parametrize("start", [0, 1, 127, 128, 129, 130, 131, 132, 133, 261, 262, 263, 400])
def test_a_ring_wraps(start, dtype):
    length = min(132, max(start, 131))
    for T in (1, 4):
        step = ring_step(start, (start, -1, 131), 132, length, window=129, T=T, K=2, G=1)
        assert_is_oracle(stored(step, dtype), 129)


@settings(max_examples=40, deadline=None)
@given(
    seeds,
    st.integers(0, 300),
    st.integers(1, 3),
    st.sampled_from([3, 40, 129]),
    st.booleans(),
    floats,
)
@example(0, 131, 1, 129, False, FLOATS[1])
def test_a_token_is_to_the_bit_what_it_is_without_tokens_before_it(
    seed, start, G, window, is_full, dtype
):
    """The tokens of a step one after the other, each cached before the next."""
    slots, window = (304, NO_WINDOW) if is_full else (window + 3, window)
    step = stored(ring_step(seed, (start,), slots, slots, window=window, T=4, G=G), dtype)
    together = decode_attention(*step, window=window)
    for t in range(4):
        one = Step(*(part[:, t : t + 1] for part in step[:4]), *step[4:])
        np.testing.assert_array_equal(decode_attention(*one, window=window), together[:, t : t + 1])
        for part, new in zip(step[4:7], one[1:4], strict=True):
            part[:, (start + t) % slots] = new[:, 0]


@pytest.mark.parametrize("T", [1, 3])
def test_tokens_that_no_hidden_state_is_before_are_no_keys(T):
    """An MTP head masks the first tokens of a sequence: they come first."""
    step = ring_step(0, (0,), 12, 0, window=5, T=4)
    step.position_BT[:, :T] = -1
    real = Step(*(part[:, T:] for part in step[:4]), *step[4:])
    y_BTHC = decode_attention(*step, window=5)
    assert not y_BTHC[:, :T].any()
    np.testing.assert_array_equal(y_BTHC[:, T:], decode_attention(*real, window=5))


@settings(deadline=None)
@given(seeds, st.lists(st.integers(-1, 30), min_size=1, max_size=5), cached)
def test_a_view_of_longer_sequences_is_read_by_its_strides(seed, starts, dtype):
    length = max(0, *starts) if len(starts) > 1 else max(0, starts[0])
    step = stored(ring_step(seed, starts, 40, length, window=NO_WINDOW), dtype)
    # The cast made whole arrays: views again, of caches whose other slots are NaN.
    for name in KEYS_AND_VALUES[2:]:
        part = getattr(step, name)
        size = part.shape[3] * part.itemsize
        whole = np.full((len(starts), 40, part.shape[2], size), 0xFF, np.uint8).view(dtype)
        whole[:, :length] = part
        step = step._replace(**{name: whole[:, :length]})
    assert_is_oracle(step, NO_WINDOW)


@settings(max_examples=30, deadline=None)
@given(seeds, st.lists(st.integers(-1, 99), min_size=2, max_size=6), floats, st.data())
def test_a_row_is_to_the_bit_what_it_is_alone(seed, starts, dtype, data):
    length = max(0, *starts)
    step = stored(ring_step(seed, starts, 100, length, window=NO_WINDOW, G=3), dtype)
    b = data.draw(st.integers(0, len(starts) - 1))
    alone = Step(*(part[b : b + 1] for part in step[:-1]), step.sink_H)
    shorter = [part[:, : max(0, starts[b])] for part in alone[4:7]]
    alone = Step(*alone[:4], *shorter, step.sink_H)
    together = decode_attention(*step, window=NO_WINDOW)
    np.testing.assert_array_equal(together[b : b + 1], decode_attention(*alone, window=NO_WINDOW))


@pytest.mark.parametrize("dtype", CODED, ids=str)
@settings(max_examples=15, deadline=None)
@given(
    seeds,
    st.integers(0, 70),
    st.integers(1, 4),
    st.sampled_from([1, 6, 50, 192]),
    st.integers(1, 70),
)
def test_codes_are_to_the_bit_the_numbers_that_they_stand_for(dtype, seed, start, T, Q, C):
    step = stored(ring_step(seed, (start, 3), 72, 72, window=33, T=T, G=3, Q=Q, C=C), dtype)
    expected = decode_attention(*decoded(step), window=33)
    np.testing.assert_array_equal(decode_attention(*step, window=33), expected)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q_BTHQ", *KEYS_AND_VALUES])
def test_bad_numbers_stay_in_their_row(name, poison):
    step = ring_step(0, (9, 40, 3), 41, 40, window=NO_WINDOW, K=1)
    before = decode_attention(*step, window=NO_WINDOW)
    getattr(step, name)[1, 0] = poison
    after = decode_attention(*step, window=NO_WINDOW)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    with np.errstate(invalid="ignore"):
        expected = np.isfinite(oracle(*step, window=NO_WINDOW)[1]) if name[0] == "v" else None
    if name in {"v_BTKC", "prior_v_BSKC"} or not np.isinf(poison):
        assert not np.isfinite(after[1]).any()
    assert expected is None or not expected.any()


@pytest.mark.parametrize("sink", [-np.inf, -3e38, NO_SINK])
def test_without_a_key_and_without_a_sink_it_is_zero(sink):
    step = ring_step(0, (-1, 2), 4, 2, window=NO_WINDOW)
    step.sink_H[:] = sink
    y_BTHC = decode_attention(*step, window=NO_WINDOW)
    assert not y_BTHC[0].any()
    assert y_BTHC[1].any()


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 300.0])
def test_weights_are_exponentials(size):
    """One channel and values of 1 in turn: outputs are the weights themselves."""
    scores = np.linspace(-size, 0, 57, dtype=np.float32)
    for key in range(0, 57, 8):
        step = random_step(T=1, S=57, starts=(57,), K=1, G=1, Q=1, C=1, sink=NO_SINK)
        step.prior_position_BS[:] = np.arange(57)
        step.q_BTHQ[:], step.k_BTKQ[:], step.prior_v_BSKC[:], step.v_BTKC[:] = 1, -size, 0, 0
        step.prior_k_BSKQ[0, :, 0, 0], step.prior_v_BSKC[0, key] = scores, 1
        exact = np.exp(scores.astype(np.float64))
        expected = exact[key] / (exact.sum() + np.exp(-np.float64(size)))
        actual = decode_attention(*step, window=NO_WINDOW)[0, 0, 0, 0]
        assert abs(actual - expected) <= (1e-6 + 1e-7 * size) * expected + 1e-37


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    step = ring_step(0, (90, -1, 30, 7, 64), 91, 90, window=NO_WINDOW, T=3, K=3, G=2)
    expected = decode_attention(*step, window=NO_WINDOW)
    monkeypatch.setattr(loops, "MIN_SHARED_WORK", 0)
    for threads in (1, 2, 5, 64):
        monkeypatch.setattr(loops, "available_threads", lambda threads=threads: threads)
        np.testing.assert_array_equal(decode_attention(*step, window=NO_WINDOW), expected)


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=64),
    st.integers(1, 8),
    st.sampled_from([1, 2, 3, 8, 64, 256]),
)
def test_tasks_have_every_pair_once_and_about_equal_work(keys, heads, tasks):
    edges = task_edges(np.array(keys), heads, tasks)
    assert edges[0] == 0
    assert edges[-1] == len(keys) * heads
    assert edges == sorted(set(edges))
    assert len(edges) - 1 <= tasks
    work_J = np.repeat(np.array(keys) + loops.PAIR_KEYS, heads)
    work = [work_J[start:end].sum() for start, end in pairwise(edges)]
    assert max(work) <= work_J.sum() / tasks + work_J.max() + 1


def test_64_threads_have_equal_parts_of_a_ragged_batch(monkeypatch):
    """A pretended machine: 64 sequences of many lengths, whose tasks go to whoever is idle."""
    tasks = []
    monkeypatch.setattr(loops, "available_threads", lambda: 64)
    monkeypatch.setattr(loops, "MIN_SHARED_WORK", 0)
    monkeypatch.setattr(loops, "attend_pairs", lambda *arguments: tasks.append(arguments[-2:]))
    starts = np.random.default_rng(0).integers(10, 4000, 64)
    position_BT = starts.astype(np.int32)[:, None]
    parts = [np.zeros((64, 1, heads, 1), np.float32) for heads in (64, 4, 4)]
    prior = [np.zeros((64, 4000, 4, 1), np.float32) for _ in range(2)]
    positions = np.zeros((64, 4000), np.int32)
    decode_attention(*parts, position_BT, *prior, positions, np.zeros(64), window=NO_WINDOW)
    work_J, threads = np.repeat(starts, 4), np.zeros(64)
    for start, end in sorted(tasks):
        threads[np.argmin(threads)] += work_J[start:end].sum()
    assert len(tasks) > 128
    assert threads.max() <= 1.3 * threads.mean()
