"""Tests of sampling: greedy and top-k against their references, torch, and on ties."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.sampling import greedy, top_k
from mimo_v2_flash.reference import sampling as oracle
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

GOOD = {"logits_NV": np.array([[1, 3, 3, 2], [0, -5, -1, 0]], np.float32)}


@every_kind
@given(tensors("logits_NV"), st.booleans())
def test_greedy_is_its_oracle(on, drawn, with_ties):
    logits_NV = np.rint(drawn[0]) if with_ties else drawn[0]
    token_N = on(greedy)(logits_NV)
    assert token_N.dtype == np.int32
    np.testing.assert_array_equal(token_N, oracle.greedy(logits_NV))


@every_kind
@given(tensors("logits_NV"), st.booleans(), st.integers(1, 6))
def test_top_k_is_its_oracle(on, drawn, with_ties, k):
    logits_NV = np.rint(drawn[0]) if with_ties else drawn[0]
    k = min(k, logits_NV.shape[1])
    best_NA, token_NA = on(top_k)(logits_NV, k=k)
    assert (best_NA.dtype, token_NA.dtype) == (np.float32, np.int32)
    expected_NA, expected_token_NA = oracle.top_k(logits_NV, k=k)
    np.testing.assert_array_equal(token_NA, expected_token_NA)
    np.testing.assert_array_equal(best_NA, expected_NA)


@every_kind
def test_ties_settle_on_the_lowest_id(on):
    assert on(greedy)(**GOOD).tolist() == [1, 0]
    assert on(top_k)(**GOOD, k=3)[1].tolist() == [[1, 2, 3], [0, 3, 2]]


def test_it_is_torch_on_the_whole_vocabulary():
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    logits_NV = random.permuted(
        np.tile(np.linspace(-9, 9, 152_576, dtype=np.float32), (2, 1)), axis=1
    )
    expected_NA, expected_id_NA = torch.topk(torch.tensor(logits_NV), 50)
    best_NA, token_NA = top_k(logits_NV, k=50)
    np.testing.assert_array_equal(best_NA, expected_NA.numpy())
    np.testing.assert_array_equal(token_NA, expected_id_NA.numpy())
    np.testing.assert_array_equal(greedy(logits_NV), token_NA[:, 0])


@pytest.mark.parametrize("k", [-1, 0, 5])
def test_k_outside_the_vocabulary_is_refused(k):
    with pytest.raises(ValueError, match=rf"top_k: k {k} is not in 1\.\.4"):
        top_k(**GOOD, k=k)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_top_k_refuses_what_is_not_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        top_k(np.array([[0, bad]], ml_dtypes.bfloat16), k=1)


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    for kernel, statics in ((greedy, {}), (top_k, {"k": 2})):
        with pytest.raises(ValueError, match=rf"{kernel.__name__}: .*\b{name}\b"):
            kernel(**(GOOD | {name: wrong}), **statics)
