"""The tile's float16: every number, with the machine's instruction and without it."""

import numpy as np
import pytest
from numba import njit, types
from numba.extending import intrinsic

from mimo_v2_flash.cpu import block_tile


@pytest.mark.parametrize("has_half", {False, block_tile.HAS_HALF})
def test_every_float16_is_exact(monkeypatch, has_half):
    monkeypatch.setattr(block_tile, "HAS_HALF", has_half)

    @intrinsic
    def half(_, address):
        def emit(_, build, __, args):
            return block_tile.load_half(build, args[0])

        return types.float32(address), emit

    @njit
    def halves(address, value_N):
        for n in range(value_N.size):
            value_N[n] = half(address + 2 * n)

    half_N = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    value_N = np.empty(half_N.size, np.float32)
    halves(half_N.ctypes.data, value_N)
    np.testing.assert_array_equal(value_N, half_N.astype(np.float32))
