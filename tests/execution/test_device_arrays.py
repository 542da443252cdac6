"""The caching allocator: device memory is reused, but never while an array refers to it."""

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
    uploaded = memory.upload(transposed)
    assert (uploaded.shape, uploaded.dtype, uploaded.nbytes) == ((3, 2), x.dtype, x.nbytes)
    np.testing.assert_array_equal(np.asarray(uploaded), transposed)
    x[:] = 0
    assert np.asarray(uploaded).any()


def test_an_array_on_the_device_stays(memory):
    uploaded = memory.upload(X)
    assert memory.upload(uploaded) is memory.hold(uploaded) is uploaded


def test_memory_of_a_freed_array_is_reused(memory):
    first = memory.allocate((2, 3), np.float32)
    tensor = first.handle
    del first
    assert memory.allocate((3, 2), np.float32).handle is not tensor
    assert memory.allocate((2, 3), np.int32).handle is not tensor
    assert memory.hold(X).handle is tensor


def test_memory_of_a_live_array_is_not_reused(memory):
    held = [memory.hold(X + n) for n in range(3)]
    held += [memory.allocate((2, 3), np.float32), memory.upload(X)]
    assert len({id(array.handle) for array in held}) == 5
    for n, array in enumerate(held[:3]):
        np.testing.assert_array_equal(np.asarray(array), X + n)


def test_memory_of_small_uploads_is_reused(memory):
    tensor = memory.upload(X).handle
    again = memory.upload(X + 1)
    assert again.handle is tensor
    np.testing.assert_array_equal(np.asarray(again), X + 1)
    assert memory.upload(X).handle is not tensor


def test_memory_of_large_uploads_is_freed(memory):
    large = np.zeros(1 << 19, np.float32)
    freed = memory.upload(large).handle
    assert memory.upload(large).handle is not freed
    assert memory.allocate(large.shape, large.dtype).handle is not freed
