"""SoloGroup: one rank alone is a group of one thread, without the thread."""

import numpy as np
import pytest

from mimo_v2_flash.groups import SoloGroup, ThreadGroup
from tests.support.kinds import every_kind

EXCHANGES = ["all_to_all", "all_gather", "reduce_scatter", "all_sum"]


def test_it_is_one():
    assert SoloGroup().size == 1


@every_kind
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_an_exchange_is_that_of_one_thread(on, exchange):
    x_1ND = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    threads = ThreadGroup(1)
    (expected,) = threads.run(lambda _: on(getattr(threads, exchange))(x_1ND))
    np.testing.assert_array_equal(on(getattr(SoloGroup(), exchange))(x_1ND), expected)
