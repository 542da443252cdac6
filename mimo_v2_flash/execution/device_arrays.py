"""Arrays in a NeuronCore's memory, and the memory of those that nobody holds any more."""

from collections import defaultdict
from typing import Any
from weakref import finalize

import numpy as np
from spike import SpikeTensor

__all__ = ["DeviceArray", "DeviceMemory"]

SMALL = 1 << 20
"""Bytes: positions and rows are smaller, weights and caches larger."""


class DeviceArray:
    """An array on the device, which programs may change in place.

    Attributes
    ----------
    tensor
        As the runtime knows it.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes' lengths."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's dtype."""
        return np.dtype(self.tensor.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return a copy on the host."""
        return np.asarray(self.tensor.numpy(), dtype)


class DeviceMemory:
    """Makes device arrays. The memory of free ones is used again, for what has the same shape.

    A program runs to its end before the next one begins: what is given to one may be free after it.
    """

    def __init__(self) -> None:
        self._unused: dict[Any, list[Any]] = defaultdict(list)

    def upload(self, array: Any) -> DeviceArray:
        """Return `array` on the device; if it is large, in memory that the runtime gets back."""
        if isinstance(array, DeviceArray) or array.nbytes <= SMALL:
            return self.hold(array)
        return DeviceArray(SpikeTensor.from_numpy(np.ascontiguousarray(array)))

    def hold(self, array: Any) -> DeviceArray:
        """Return `array`, or if it is the host's its values in free memory."""
        if isinstance(array, DeviceArray):
            return array
        unused, content = self._unused[_kind(array)], np.ascontiguousarray(array)
        if not unused:
            return self._shared(SpikeTensor.from_numpy(content))
        unused[-1].write_from_numpy(content)
        return self._shared(unused.pop())

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Return an array of any values, whose memory is free again when nobody holds it."""
        empty = np.broadcast_to(np.zeros((), dtype), shape)
        unused = self._unused[_kind(empty)]
        return self._shared(unused.pop()) if unused else self.hold(empty)

    def _shared(self, tensor: Any) -> DeviceArray:
        array = DeviceArray(tensor)
        finalize(array, self._unused[_kind(tensor)].append, tensor).atexit = False
        return array


def _kind(array: Any) -> tuple[Any, ...]:
    return tuple(array.shape), np.dtype(array.dtype)
