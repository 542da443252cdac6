"""Invalid kernel arguments: wrong rank, dtype, type or axis length, which kernels must refuse."""

import numpy as np
import pytest

from mimo_v2_flash.kernels.axes import axes_of

WRONG_DTYPE = {"f": np.float64, "V": np.float64, "i": np.int64, "b": np.float32}


def mistakes(**good):
    """Return pytest parameters (name, wrong): every fault in each of the `good` tensors."""
    letters = "".join(axes_of(name) for name in good)
    cases = []
    for name, tensor in good.items():
        wrong = {
            "one axis more": tensor[None],
            "another dtype": tensor.astype(WRONG_DTYPE[np.dtype(tensor.dtype).kind]),
            "a list": tensor.tolist(),
        }
        for axis, letter in enumerate(axes_of(name)):
            if letters.count(letter) > 1:
                wrong[f"{letter} too long"] = np.repeat(tensor, 2, axis)
        cases += [
            pytest.param(name, value, id=f"{name}: {fault}") for fault, value in wrong.items()
        ]
    return cases
