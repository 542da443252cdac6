"""Tests of token_embedding: against its reference and torch, equal to the bit."""

import numpy as np
import pytest
from hypothesis import given

from mimo_v2_flash.kernels.token_embedding import token_embedding
from mimo_v2_flash.reference import token_embedding as oracle
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

GOOD = {
    "token_N": np.array([0, 3, 3, 2, 1, 0], np.int32),
    "embedding_VD": np.arange(20, dtype=np.float32).reshape(4, 5),
}


@every_kind
@given(tensors("token_N", "embedding_VD"))
def test_it_is_its_oracle_bit_by_bit(on, drawn):
    actual = on(token_embedding)(*drawn)
    assert actual.dtype == drawn[1].dtype
    np.testing.assert_array_equal(actual.astype(np.float64), oracle.token_embedding(*drawn))


def test_it_is_torch():
    torch = pytest.importorskip("torch")
    token, table = (torch.tensor(part) for part in GOOD.values())
    expected = torch.nn.functional.embedding(token.long(), table)
    np.testing.assert_array_equal(token_embedding(**GOOD), expected.numpy())


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"token_embedding: .*\b{name}\b"):
        token_embedding(**(GOOD | {name: wrong}))
