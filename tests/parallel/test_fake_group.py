"""FakeGroup: its collectives equal those of threads that all pass the same input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel.fake_group import FakeGroup

COLLECTIVES = ["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]
sizes = st.integers(1, 5)


@given(
    st.sampled_from(COLLECTIVES), sizes, st.integers(0, 4), st.sampled_from([np.float32, np.int32])
)
def test_a_collective_equals_that_of_threads_with_equal_inputs(name, size, rank, dtype):
    x_PMD = np.arange(size * 6).reshape(size, 2, 3).astype(dtype)
    threads = ThreadGroup(size)
    expected = threads.run(lambda _: getattr(threads, name)(x_PMD))[rank % size]
    actual = getattr(FakeGroup(size, rank % size), name)(x_PMD)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == expected.dtype


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.integers(0, 4))
def test_ragged_all_to_all_equals_that_of_threads(counts, rank):
    x_ND, size = np.arange(2 * sum(counts)).reshape(-1, 2), len(counts)
    threads = ThreadGroup(size)
    expected = threads.run(lambda _: threads.ragged_all_to_all(x_ND, counts))[rank % size]
    for actual, reference in zip(
        FakeGroup(size, rank % size).ragged_all_to_all(x_ND, counts), expected, strict=True
    ):
        np.testing.assert_array_equal(actual, reference)


def test_a_broadcast_is_its_message_and_an_abort_nothing():
    assert FakeGroup(3, 1).broadcast(b"a plan") == b"a plan"
    FakeGroup(3).abort(LookupError())


def test_a_split_is_a_fake_group():
    assert FakeGroup(8, 5).split([7, 5]) == FakeGroup(2, 1)
    with pytest.raises(ValueError, match="5 among them, got \\[0, 1\\]"):
        FakeGroup(8, 5).split([0, 1])
