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
    upload = memory.upload(transposed)
    assert (upload.shape, upload.dtype, upload.nbytes) == ((3, 2), x.dtype, x.nbytes)
    np.testing.assert_array_equal(np.asarray(upload), transposed)
    x[:] = 0
    assert np.asarray(upload).any()


def test_what_is_there_stays(memory):
    upload = memory.upload(X)
    assert memory.upload(upload) is memory.hold(upload) is upload


def test_memory_that_nobody_holds_is_used_again(memory):
    first = memory.allocate((2, 3), np.float32)
    tensor = first.tensor
    del first
    assert memory.allocate((3, 2), np.float32).tensor is not tensor
    assert memory.allocate((2, 3), np.int32).tensor is not tensor
    assert memory.hold(X).tensor is tensor


def test_memory_that_somebody_holds_is_not(memory):
    held = [memory.hold(X + n) for n in range(3)]
    held += [memory.allocate((2, 3), np.float32), memory.upload(X)]
    assert len({id(array.tensor) for array in held}) == 5
    for n, array in enumerate(held[:3]):
        np.testing.assert_array_equal(np.asarray(array), X + n)


def test_small_arrays_that_are_placed_share_memory_with_others(memory):
    tensor = memory.upload(X).tensor
    again = memory.upload(X + 1)
    assert again.tensor is tensor
    np.testing.assert_array_equal(np.asarray(again), X + 1)
    assert memory.upload(X).tensor is not tensor


def test_large_arrays_that_are_placed_do_not(memory):
    large = np.zeros(1 << 19, np.float32)
    gone = memory.upload(large).tensor
    assert memory.upload(large).tensor is not gone
    assert memory.allocate(large.shape, large.dtype).tensor is not gone
