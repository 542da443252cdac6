"""Device memory is used again, but never while somebody holds it."""

import ml_dtypes
import numpy as np
import pytest

from tests.support.neuron_stand_ins import stand_in

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def memory(monkeypatch):
    stand_in(monkeypatch)
    from mimo_v2_flash.execution.device_arrays import DeviceMemory

    return DeviceMemory()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3, np.int32])
def test_an_array_is_copied_there_and_back(memory, dtype):
    x, transposed = X.astype(dtype), X.astype(dtype).T
    placed = memory.placed(transposed)
    assert (placed.shape, placed.dtype, placed.nbytes) == ((3, 2), x.dtype, x.nbytes)
    np.testing.assert_array_equal(np.asarray(placed), transposed)
    x[:] = 0
    assert np.asarray(placed).any()


def test_what_is_there_stays(memory):
    placed = memory.placed(X)
    assert memory.placed(placed) is memory.holding(placed) is placed


def test_memory_that_nobody_holds_is_used_again(memory):
    first = memory.free((2, 3), np.float32)
    tensor = first.tensor
    del first
    assert memory.free((3, 2), np.float32).tensor is not tensor
    assert memory.free((2, 3), np.int32).tensor is not tensor
    assert memory.holding(X).tensor is tensor


def test_memory_that_somebody_holds_is_not(memory):
    held = [memory.holding(X + n) for n in range(3)]
    held += [memory.free((2, 3), np.float32), memory.placed(X)]
    assert len({id(array.tensor) for array in held}) == 5
    for n, array in enumerate(held[:3]):
        np.testing.assert_array_equal(np.asarray(array), X + n)


def test_small_arrays_that_are_placed_share_memory_with_others(memory):
    tensor = memory.placed(X).tensor
    again = memory.placed(X + 1)
    assert again.tensor is tensor
    np.testing.assert_array_equal(np.asarray(again), X + 1)
    assert memory.placed(X).tensor is not tensor


def test_large_arrays_that_are_placed_do_not(memory):
    large = np.zeros(1 << 19, np.float32)
    gone = memory.placed(large).tensor
    assert memory.placed(large).tensor is not gone
    assert memory.free(large.shape, large.dtype).tensor is not gone
