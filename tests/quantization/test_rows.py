"""Quantization of a few rows at a time: any source, any number of rows, refusals by name."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.quantization import get_format, rows
from mimo_v2_flash.quantization.rows import float32_rows, quantize_rows
from tests.support.stored_weights import random_float8

Q8_0, FP8 = get_format("q8_0"), get_format("fp8")


@pytest.mark.parametrize("height", [1, 3])
@pytest.mark.parametrize("outputs", [0, 1, 2, 7])
def test_all_rows_are_quantized_whatever_a_task_has(monkeypatch, outputs, height):
    monkeypatch.setattr(rows, "TASK_ELEMENTS", 64)
    w_OI = np.random.default_rng(0).standard_normal((outputs, 64), np.float32)
    heights = []

    def encode(part_OI):
        heights.append(len(part_OI))
        return Q8_0._encode(part_OI)

    w = quantize_rows(Q8_0, encode, w_OI, "up", height)
    np.testing.assert_array_equal(w.data, Q8_0._encode(w_OI).data)
    assert max(heights) <= height


def test_rows_of_any_weight_are_float32():
    w = random_float8(np.random.default_rng(0), 300, 130, 128)
    whole_OI = w.dequantize()
    for part in (slice(0, 128), slice(128, 400), slice(5, 9)):
        np.testing.assert_array_equal(float32_rows(w, part), whole_OI[part])
    half_OI = whole_OI.astype(ml_dtypes.bfloat16)
    values_OI = float32_rows(half_OI, slice(2, 4))
    assert values_OI.dtype == np.float32
    np.testing.assert_array_equal(values_OI, half_OI[2:4].astype(np.float32))


def test_fp8_is_quantized_by_its_blocks():
    w_OI = np.random.default_rng(0).standard_normal((5000, 130), np.float32)
    w, expected = FP8.quantize(w_OI), FP8.quantize(w_OI[:128])
    np.testing.assert_array_equal(w.code[:128], expected.code)
    assert w.scale.shape == (40, 2)
    with pytest.raises(ValueError, match="up holds NaN or infinity"):
        FP8.quantize(np.full((2, 2), np.nan, np.float32), "up")
