"""Runs of sequences: what they gather, where they scatter it, and which slots came before."""

import numpy as np
import pytest

from mimo_v2_flash.kernels.kv_cache import KVCache
from mimo_v2_flash.layers.forward_batch import SequenceRun

SLOTS, SEQUENCES = 3, 4
FLAT = SLOTS * SEQUENCES + 1
CACHE = KVCache(
    np.random.default_rng(0).standard_normal((FLAT, 2, 5)).astype(np.float32),
    np.random.default_rng(1).standard_normal((FLAT, 2, 4)).astype(np.float32),
    np.append(np.arange(FLAT - 1, dtype=np.int32), np.int32(-1)),
)
X_ND = np.arange(14.0).reshape(7, 2)


def test_tokens_side_by_side_are_views_of_the_batch():
    run = SequenceRun(first_row=1, rows=2, tokens=3, first_token=1)
    x_BTD = run.gather(X_ND)
    np.testing.assert_array_equal(x_BTD, X_ND[1:].reshape(2, 3, 2))
    assert np.shares_memory(x_BTD, X_ND)
    assert run.positions(np.arange(7)).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_a_run_of_the_whole_batch_slices_nothing():
    sliced = []

    class Unsliceable(np.ndarray):
        """An array that records its slices."""

        def __getitem__(self, key):
            sliced.append(key)
            return super().__getitem__(key)

    SequenceRun(0, 7, 1).gather(X_ND.view(Unsliceable))
    assert sliced == []


def test_idle_sequences_are_masked_and_written_nowhere():
    run = SequenceRun(first_row=0, rows=3, tokens=1, token_BT=np.array([[5], [-1], [2]]))
    assert run.positions(np.arange(7, dtype=np.int32)).tolist() == [[5], [-1], [2]]
    y_ND = np.zeros_like(X_ND)
    run.scatter(run.gather(X_ND), y_ND)
    np.testing.assert_array_equal(y_ND[[5, 2]], X_ND[[5, 2]])
    assert not y_ND[[0, 1, 3, 4, 6]].any()


@pytest.mark.parametrize("kv_length", [1, 3])
def test_prior_tokens_are_those_of_the_rows(kv_length):
    viewed = SequenceRun(1, 2, 1, kv_length=kv_length).prior(CACHE, SLOTS)
    assert viewed.position_BS.tolist() == [[3, 4, 5][:kv_length], [6, 7, 8][:kv_length]]
    for view, part in zip(viewed, CACHE, strict=True):
        assert np.shares_memory(view, part)
    rows = np.array([1, 2], np.int32)
    taken = SequenceRun(0, 2, 1, row_B=rows, kv_length=kv_length).prior(CACHE, SLOTS)
    for copy, view in zip(taken, viewed, strict=True):
        np.testing.assert_array_equal(copy, view)
