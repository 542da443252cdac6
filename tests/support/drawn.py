"""Hypothesis strategies for tensors, whose names give their axes: `x_BTD` has axes B, T and D.

@given(tensors("x_BTD", "weight_D"))
def test_it_is_its_oracle(drawn): rmsnorm(*drawn, epsilon=1e-5)
"""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash.cpu.kv_codes import CODES
from mimo_v2_flash.kernels.axes import axes_of

FLOATS = [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)]
CODED = list(CODES.values())
CACHED = [*FLOATS, *CODED]

floats, cached = st.sampled_from(FLOATS), st.sampled_from(CACHED)
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from([1e-3, 1.0, 30.0])


@st.composite
def tensors(draw, *names: str, dtypes=floats, **lengths):
    """Draw one array for each of `names`; equal letters are equal lengths, all have one dtype.

    Lengths are 1 to 6, or drawn from `lengths` by letter; H is K x G where both are named.
    `visible` is boolean, `token` an int32 below V; every other array is normal, at one scale.
    """
    length = {}
    for letter in dict.fromkeys("".join(axes_of(name) for name in names)):
        length[letter] = draw(lengths.get(letter, st.integers(1, 6)))
    if "K" in length and "G" in length:
        length["H"] = length["K"] * length["G"]
    dtype, scale = draw(dtypes), draw(scales)
    generator = np.random.default_rng(draw(seeds))

    def array(name: str) -> np.ndarray:
        shape = [length[letter] for letter in axes_of(name)]
        if name.startswith("visible"):
            return generator.random(shape) < 0.6
        if name.startswith("token"):
            return generator.integers(0, length["V"], shape, dtype=np.int32)
        return (generator.standard_normal(shape) * scale).astype(dtype)

    return [array(name) for name in names]
