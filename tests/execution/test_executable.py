"""XLA executables run every cast of a program."""

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("nkipy", reason="nkipy is not installed (README)")
jax = pytest.importorskip("jax")
pytestmark = pytest.mark.nkipy


def rounded(x):
    small = x.astype(ml_dtypes.bfloat16)
    return ((small + small * small) * small).astype(np.float32)


def run(function, x):
    from mimo_v2_flash.execution.executable import Executable
    from mimo_v2_flash.execution.tracing import trace

    device = jax.devices("cpu")[0]
    executable = Executable(trace(function, {"x": x}).module, [device])
    ((y,),) = executable([[jax.device_put(np.array(x), device)]])
    return np.asarray(y)


def test_every_cast_is_done():
    x = np.random.default_rng(0).standard_normal(99).astype(np.float32)
    np.testing.assert_array_equal(run(rounded, x), rounded(x))
    assert not np.array_equal(rounded(x), (x + x * x) * x)
