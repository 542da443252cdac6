"""The tasks of an expert step: pairs by expert, equal parts on many threads, order of words."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu.expert_step import group_by_expert, interleave, task_rows
from mimo_v2_flash.cpu.tile import WORD, interleave_words
from tests.support.drawn import seeds


@given(seeds, st.integers(0, 9), st.integers(1, 5), st.integers(1, 7))
def test_pairs_are_sorted_by_expert_and_others_left_out(seed, N, A, experts):
    generator = np.random.default_rng(seed)
    expert_NA = generator.integers(-2, experts + 2, (N, A), dtype=np.int32)
    weight_NA = generator.random((N, A), np.float32)
    pairs = group_by_expert(weight_NA, expert_NA, experts)
    order_J = np.argsort(expert_NA.ravel(), kind="stable")
    chosen_J = expert_NA.ravel()[order_J]
    is_local_J = (chosen_J >= 0) & (chosen_J < experts)
    order_J, chosen_J = order_J[is_local_J], chosen_J[is_local_J]
    np.testing.assert_array_equal(pairs.token_J, order_J // A)
    np.testing.assert_array_equal(pairs.weight_J, weight_NA.ravel()[order_J])
    np.testing.assert_array_equal(np.repeat(pairs.expert_G, np.diff(pairs.start_G)), chosen_J)
    assert pairs.start_G[0] == 0
    assert len(set(chosen_J.tolist())) == len(pairs.expert_G) == len(pairs.start_G) - 1


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_64_threads_have_equal_parts(batch, threads):
    """A pretended machine, MiMo's widths: tasks go to whoever is idle, first to last."""
    generator = np.random.default_rng(batch)
    chosen = [generator.permutation(256)[:8] for _ in range(batch)]
    tokens_G = np.unique(np.concatenate(chosen), return_counts=True)[1]
    for rows, groups in ((2048, len(tokens_G)), (4096, 1)):
        step = task_rows(rows, groups, threads)
        parts = [min(step, rows - start) for start in range(0, rows, step)]
        costs = tokens_G + 4 if groups > 1 else np.array([1])  # to decode is as four tokens
        busy = np.zeros(threads)
        for cost in (c * part for c in costs for part in parts):
            busy[np.argmin(busy)] += cost
        assert len(costs) * len(parts) >= 2 * threads or threads == 1
        assert busy.max() <= 1.15 * busy.mean()


@given(st.integers(0, 500), st.sampled_from([1, 2, 4]), st.integers(0, 20), st.integers(1, 130))
def test_hidden_channels_lie_as_words_give_them(F, size, start, rows):
    """In blocks of any length: together they are `interleave_words`."""
    value_F, out_F = np.arange(F, dtype=np.float32), np.full(F, -1, np.float32)
    edges = [0, *range(start, F, rows), F]
    for first, last in pairwise(edges):
        interleave(value_F, out_F, first, last, WORD // size)
    np.testing.assert_array_equal(out_F, interleave_words(value_F[None], size)[0])
