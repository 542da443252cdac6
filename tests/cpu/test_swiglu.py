"""SwiGLU's activations by compiled loops: float64's, in any number of threads; else NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu import swiglu as module
from mimo_v2_flash.cpu.swiglu import swiglu
from mimo_v2_flash.kernels import ops
from tests.support.drawn import seeds

pytest.importorskip("numba")


def exact(gate_NF, up_NF):
    """Return silu(gate) x up in float64."""
    gate_NF, decayed_NF = gate_NF.astype(np.float64), np.exp(-np.abs(gate_NF.astype(np.float64)))
    return gate_NF * np.where(gate_NF >= 0, 1, decayed_NF) / (1 + decayed_NF) * up_NF


@given(seeds, st.integers(0, 70), st.integers(1, 40), st.integers(1, 5))
def test_it_is_float64s_in_any_number_of_shares(seed, N, F, threads):
    generator = np.random.default_rng(seed)
    gate_NF = (generator.standard_normal((N, F)) * 20).astype(np.float32)
    up_NF = generator.standard_normal((N, F)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MIN_SHARE", 8)
        patch.setattr(module, "available_threads", lambda: threads)
        y_NF = swiglu(gate_NF, up_NF)
    # A sigmoid's error is the exponential's: 2e-7, and 1e-7 for each unit of its argument.
    bound_NF = (5e-7 + 2e-7 * np.abs(gate_NF)) * np.abs(exact(gate_NF, up_NF)) + 1e-37
    assert np.all(np.abs(y_NF - exact(gate_NF, up_NF)) <= bound_NF)
    np.testing.assert_array_equal(ops.swiglu(gate_NF, up_NF), y_NF)


def test_a_row_has_the_bits_that_it_has_alone():
    generator = np.random.default_rng(0)
    gate_NF, up_NF = generator.standard_normal((2, 9, 33), np.float32)
    alone = [swiglu(gate_NF[n : n + 1], up_NF[n : n + 1]) for n in range(9)]
    np.testing.assert_array_equal(swiglu(gate_NF, up_NF), np.concatenate(alone))


def test_it_ends_at_0_and_nan_stays_nan():
    gate_NF = np.array([[-3e38, -1000, 0, 1000, np.inf, np.nan]], np.float32)
    y_NF = swiglu(gate_NF, np.ones_like(gate_NF))
    np.testing.assert_array_equal(y_NF, np.array([[0, 0, 0, 1000, np.inf, np.nan]], np.float32))


@pytest.mark.parametrize(
    "change", [lambda x: x.astype(np.float64), lambda x: x[0], lambda x: x[:, ::2], lambda x: x[1:]]
)
def test_other_arrays_are_left_to_numpy(change):
    x_NF = np.ones((4, 6), np.float32)
    assert swiglu(change(x_NF), x_NF) is None
    assert swiglu(x_NF, change(x_NF)) is None
