"""Parallel sizes: the first that fits, the smallest if none does, and the fewest devices."""

import pytest

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.costs.parallel_choice import choose_parallel, fewest_devices
from mimo_v2_flash.parallel_config import ParallelConfig

CONFIG = MiMoConfig()
LOAD = Workload(1, 64, 16)
CORE = 24 * 10**9


def fullest(parallel: ParallelConfig) -> int:
    return max(device.total for device in devices(CONFIG, parallel, LOAD))


def test_heads_are_split_only_as_far_as_memory_asks_for():
    whole = ParallelConfig(data_parallel_size=32)
    halves = ParallelConfig(tensor_parallel_size=2, data_parallel_size=16)
    assert choose_parallel(CONFIG, LOAD, 32, fullest(whole)) == (whole, fullest(whole))
    assert choose_parallel(CONFIG, LOAD, 32, fullest(whole) - 1) == (halves, fullest(halves))


def test_what_fits_nowhere_has_the_smallest_sizes():
    fleet = choose_parallel(CONFIG, LOAD, 4, 10**9)
    assert fleet.nbytes == fullest(fleet.parallel)
    assert fleet.parallel.tensor_parallel_size == 4


def test_a_number_that_experts_cannot_be_split_over_is_an_error():
    with pytest.raises(ValueError, match="experts"):
        choose_parallel(CONFIG, LOAD, 300, CORE)


@pytest.mark.parametrize("memory", [CORE, 96 * 10**9])
def test_the_fewest_devices_fit_and_half_of_them_do_not(memory):
    number = fewest_devices(CONFIG, LOAD, memory)
    whole, half = (fullest(ParallelConfig(tensor_parallel_size=n)) for n in (number, number // 2))
    assert whole <= memory < half


def test_there_may_be_no_number():
    assert fewest_devices(CONFIG, LOAD, 10**8) is None
