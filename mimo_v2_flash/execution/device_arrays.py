"""Arrays in a NeuronCore's memory, and a caching allocator for them."""

from collections import defaultdict
from typing import Any
from weakref import finalize

import numpy as np
from spike import SpikeTensor

from .program_call import ProgramArray

__all__ = ["DeviceArray", "DeviceMemory"]

MAX_CACHED_BYTES = 1 << 20
"""Size of arrays that use cached memory: positions are smaller, weights and caches larger."""


class DeviceArray(ProgramArray):
    """An array in a NeuronCore's memory: a tensor of the Neuron runtime."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return a copy on the host."""
        return np.asarray(self.handle.numpy(), dtype)


class DeviceMemory:
    """A caching allocator: memory of freed arrays is reused for arrays of the same shape and dtype.

    This is safe because a program runs to its end before the next one begins: an array that one
    program takes may be freed right after it.
    """

    def __init__(self) -> None:
        self._unused: dict[Any, list[Any]] = defaultdict(list)

    def upload(self, array: Any) -> DeviceArray:
        """Return `array` on the device. Memory of large arrays is not cached but freed."""
        if isinstance(array, DeviceArray) or array.nbytes <= MAX_CACHED_BYTES:
            return self.hold(array)
        return DeviceArray(SpikeTensor.from_numpy(np.ascontiguousarray(array)))

    def hold(self, array: Any) -> DeviceArray:
        """Return `array` itself if it is on the device, else its copy in cached memory."""
        if isinstance(array, DeviceArray):
            return array
        unused, content = self._unused[_key(array)], np.ascontiguousarray(array)
        if not unused:
            return self._cached(SpikeTensor.from_numpy(content))
        unused[-1].write_from_numpy(content)
        return self._cached(unused.pop())

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Return an uninitialized array in cached memory."""
        empty = np.broadcast_to(np.zeros((), dtype), shape)
        unused = self._unused[_key(empty)]
        return self._cached(unused.pop()) if unused else self.hold(empty)

    def _cached(self, tensor: Any) -> DeviceArray:
        """Return `tensor` as an array; when that is garbage-collected, `tensor` can be reused."""
        array = DeviceArray(tensor)
        finalize(array, self._unused[_key(tensor)].append, tensor).atexit = False
        return array


def _key(array: Any) -> tuple[Any, ...]:
    return tuple(array.shape), np.dtype(array.dtype)
