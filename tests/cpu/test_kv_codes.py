"""Keys and values in 8 bits: rounded to the nearest code, by the scale of their own row."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu.kv_codes import CODES, channels, decode, encode, is_finite, row_width
from tests.support.drawn import CODED, FLOATS, scales, seeds

coded = pytest.mark.parametrize("dtype", CODED, ids=str)


@coded
@given(seeds, st.integers(1, 40), scales)
def test_a_number_is_the_nearest_that_its_row_can_hold(dtype, seed, width, size):
    generator = np.random.default_rng(seed)
    x_NKQ = generator.standard_normal((5, 3, width), np.float32) * np.float32(size)
    x_NKQ[0, 0] = 0
    x_NKQ[1, 0, 0] *= 1000
    rows_NKI = encode(x_NKQ, dtype)
    assert (rows_NKI.shape, rows_NKI.dtype) == ((5, 3, width + 2), dtype)
    assert channels(rows_NKI) == width
    assert is_finite(rows_NKI).all()
    error_NKQ = np.abs(decode(rows_NKI).astype(np.float64) - x_NKQ)
    largest_NK1 = np.max(np.abs(x_NKQ), axis=2, keepdims=True) * (1 + 2.0**-7)
    if dtype == CODES["int8"]:  # half a step
        allowed_NKQ = largest_NK1 / 127 / 2
    else:  # of 3 bits of mantissa, or half a step of the subnormal codes
        allowed_NKQ = np.maximum(np.abs(x_NKQ) * 2.0**-4, largest_NK1 / 448 * 2.0**-10)
    assert np.all(error_NKQ <= allowed_NKQ * (1 + 1e-6))


@coded
@given(seeds, st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_a_row_is_rounded_by_itself(dtype, seed, outlier):
    x_NKQ = np.random.default_rng(seed).standard_normal((3, 2, 20), np.float32)
    expected = encode(x_NKQ, dtype).tobytes()
    x_NKQ[1, 1, 7] = outlier
    rows_NKI = encode(x_NKQ, dtype)
    is_bad_NK = np.zeros((3, 2), bool)
    is_bad_NK[1, 1] = not np.isfinite(outlier)
    np.testing.assert_array_equal(is_finite(rows_NKI), ~is_bad_NK)
    assert np.isfinite(decode(rows_NKI))[~is_bad_NK].all()
    assert not np.isfinite(decode(rows_NKI))[is_bad_NK].any()
    others = np.array(np.frombuffer(expected, dtype).reshape(3, 2, 22))
    others[1, 1] = rows_NKI[1, 1] = 0
    assert rows_NKI.tobytes() == others.tobytes()


@coded
def test_what_has_no_normal_scale_is_zero(dtype):
    x_NQ = np.array([[0, 0], [1e-40, -1e-42], [1e-37, 1e-37], [-0.0, 0]], np.float32)
    assert not decode(encode(x_NQ, dtype)).any()


@coded
def test_the_largest_number_has_the_largest_code_or_the_one_before_it(dtype):
    x_NQ = np.exp(np.linspace(-60, 60, 997, dtype=np.float32))[:, None]
    code_N = encode(x_NQ, dtype)[:, 0].astype(np.float32)
    assert set(code_N) <= ({127, 126} if dtype == np.int8 else {448, 416})


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats_are_cast(dtype):
    x_NQ = np.random.default_rng(0).standard_normal((3, 5)).astype(ml_dtypes.bfloat16)
    rows_NQ = encode(x_NQ, dtype)
    assert rows_NQ.dtype == dtype
    np.testing.assert_array_equal(rows_NQ, x_NQ)
    assert decode(rows_NQ) is rows_NQ
    assert encode(rows_NQ, dtype) is rows_NQ
    assert (row_width(5, dtype), channels(rows_NQ)) == (5, 5)
    x_NQ[1, 2] = np.inf
    assert is_finite(x_NQ).tolist() == [True, False, True]


def test_bfloat16_hidden_states_have_the_codes_of_their_numbers():
    x_NQ = np.random.default_rng(0).standard_normal((3, 5)).astype(ml_dtypes.bfloat16)
    for dtype in CODED:
        assert encode(x_NQ, dtype).tobytes() == encode(x_NQ.astype(np.float32), dtype).tobytes()
