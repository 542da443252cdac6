"""Embedding: rows of the table in the dtype of the hidden states."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.layers.embedding import embed
from mimo_v2_flash.quantization import get_format

TABLE_VD = np.arange(8, dtype=ml_dtypes.bfloat16).reshape(4, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_token_has_its_row_in_the_dtype_of_the_hidden_states(dtype):
    x_ND = embed(np.array([3, 0, 3], np.int32), TABLE_VD, dtype=dtype)
    assert x_ND.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x_ND.astype(np.float32), [[6, 7], [0, 1], [6, 7]])


@pytest.mark.parametrize("token_N", [[3, 0, 3], [2], []])
def test_rows_of_a_quantized_table_are_decoded(token_N):
    table_VD = np.random.default_rng(0).standard_normal((4, 64), np.float32)
    quantized = get_format("q8_0").quantize(table_VD)
    x_ND = embed(np.array(token_N, np.int32), quantized, dtype="float32")
    np.testing.assert_array_equal(x_ND, quantized.dequantize()[token_N])
