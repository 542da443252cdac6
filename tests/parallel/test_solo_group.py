"""SoloGroup: its collectives equal those of a ThreadGroup of one."""

import numpy as np
import pytest

from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from tests.support.kinds import every_kind

COLLECTIVES = ["all_to_all", "all_gather", "reduce_scatter", "all_reduce"]


def test_it_has_one_rank():
    assert (SoloGroup().size, SoloGroup().rank) == (1, 0)


@every_kind
@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_equals_that_of_one_thread(on, name):
    x_1ND = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    threads = ThreadGroup(1)
    (expected,) = threads.run(lambda _: on(getattr(threads, name))(x_1ND))
    np.testing.assert_array_equal(on(getattr(SoloGroup(), name))(x_1ND), expected)


def test_ragged_rows_are_returned():
    x_ND = np.ones((3, 2))
    rows, count_P = SoloGroup().ragged_all_to_all(x_ND, [3])
    np.testing.assert_array_equal(rows, x_ND)
    assert count_P.tolist() == [3]
    with pytest.raises(ValueError, match="expected 1 counts that sum to 3 rows, got \\[2\\]"):
        SoloGroup().ragged_all_to_all(x_ND, [2])


def test_a_broadcast_is_its_message_and_an_abort_nothing():
    assert SoloGroup().broadcast(b"a plan") == b"a plan"
    SoloGroup().abort(LookupError())


def test_it_splits_into_itself():
    assert SoloGroup().split([0]) == SoloGroup()
    with pytest.raises(ValueError, match="expected distinct ranks of 0 to 0"):
        SoloGroup().split([1])
