"""logprobs: log_softmax in float64, ranks, and the most probable tokens, ties by lowest id."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.engine.logprobs import token_logprobs
from tests.support.drawn import seeds


def log_softmax(logits_NV) -> np.ndarray:
    return torch.log_softmax(torch.tensor(logits_NV, dtype=torch.float64), dim=-1).numpy()


def sorted_ids(row_V, count: int) -> list[int]:
    """Return the ids of the most probable tokens, of equal ones the lowest first."""
    return sorted(range(len(row_V)), key=lambda token: (-row_V[token], token))[:count]


@given(seeds, st.integers(1, 5), st.integers(1, 40), st.sampled_from([0.1, 3, 300]), st.data())
def test_they_are_log_softmax_ranks_and_the_most_probable(seed, N, V, scale, data):
    generator = np.random.default_rng(seed)
    logits_NV = np.round(generator.standard_normal((N, V)) * 4) * scale / 4  # with ties
    logits_NV = logits_NV.astype(np.float32)
    token_N = generator.integers(0, V, N)
    top = data.draw(st.lists(st.integers(0, V), min_size=N, max_size=N))
    expected_NV = log_softmax(logits_NV)
    results = token_logprobs(logits_NV, token_N, top)
    assert len(results) == N
    for row, result in enumerate(results):
        ids = sorted_ids(logits_NV[row], top[row])
        assert result.token == token_N[row]
        assert result.logprob == pytest.approx(expected_NV[row, token_N[row]], rel=1e-12)
        assert result.rank == np.sum(logits_NV[row] >= logits_NV[row, token_N[row]])
        assert [token for token, _ in result.top] == ids
        assert [p for _, p in result.top] == pytest.approx(list(expected_NV[row, ids]), rel=1e-12)


def test_numbers_are_those_of_python():
    (result,) = token_logprobs(np.zeros((1, 8), np.float32), np.array([3]), [2])
    assert result == (3, pytest.approx(-math.log(8)), 8, ((0, result.logprob), (1, result.logprob)))
    values = [result.token, result.logprob, result.rank, *result.top[0]]
    assert [type(value) for value in values] == [int, float, int, int, float]


def test_the_real_vocabulary():
    logits_1V = np.random.default_rng(0).standard_normal((1, 152_576)).astype(np.float32) * 5
    (result,) = token_logprobs(logits_1V, np.array([152_575]), [1000])
    expected_V = log_softmax(logits_1V)[0]
    assert result.logprob == pytest.approx(expected_V[-1], rel=1e-12)
    assert [token for token, _ in result.top] == sorted_ids(logits_1V[0], 1000)


def test_an_impossible_token_has_no_probability_and_the_last_rank():
    logits_1V = np.array([[1, -np.inf, 3, -np.inf]], np.float32)
    (result,) = token_logprobs(logits_1V, np.array([1]), [3])
    assert (result.logprob, result.rank) == (-math.inf, 4)
    assert [token for token, _ in result.top] == [2, 0, 1]


def test_logits_far_from_zero_do_not_overflow():
    logits_NV = np.array([[1e30, 0], [-3e38, -3.1e38]], np.float32)
    results = token_logprobs(logits_NV, np.array([1, 0]), [0, 1])
    assert (results[0].logprob, results[1].logprob) == (-float(np.float32(1e30)), 0.0)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_of_no_tokens_there_are_none(dtype):
    assert token_logprobs(np.zeros((0, 5), np.float32), np.array([], dtype), []) == []


def test_more_tokens_than_there_are_gives_all():
    (result,) = token_logprobs(np.array([[1, 3, 2]], np.float32), np.array([1]), [1000])
    assert [token for token, _ in result.top] == [1, 2, 0]
