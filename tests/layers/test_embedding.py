"""Embedding: rows of the table in the dtype of the hidden states."""

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash.layers.embedding import embed

TABLE_VD = np.arange(8, dtype=ml_dtypes.bfloat16).reshape(4, 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_token_has_its_row_in_the_dtype_of_the_hidden_states(dtype):
    x_ND = embed(np.array([3, 0, 3], np.int32), TABLE_VD, dtype=dtype)
    assert x_ND.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x_ND.astype(np.float32), [[6, 7], [0, 1], [6, 7]])
