"""LM head: every rank gets the logits, or the greedy tokens, of all rows."""

import numpy as np
import pytest

from mimo_v2_flash.checkpoint.shard_weights import shard_weights
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.layers.head import LMHead
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.tiny import Recipe, tiny

MODEL = tiny(Recipe(dense_width=32, experts=8))
V = MODEL.config.vocab_size  # 61: vocabulary shards differ in size
X_BND = np.random.default_rng(0).standard_normal((3, 2, 23)).astype(np.float32)
ALONE = LMHead(MODEL.config, NumpyBackend(), ParallelContext(ParallelConfig(), SoloGroup()))
INDEX_Bn = np.array([[0, 1], [1, 1], [0, 5]])  # the hidden states have two columns
ROWS = slice(0, 3)
EXPECTED = ALONE.logits(X_BND, INDEX_Bn, MODEL.weights, rows=ROWS)


def on_ranks(plan: ParallelConfig, program, model=MODEL) -> list:
    """Return the output of `program(head, x_BTD, weights, rows)` on every rank."""
    group = ThreadGroup(plan.world_size)

    def on_rank(rank: int):
        context = ParallelContext(plan, group)
        weights = shard_weights(model.weights, model.config, context.shard_spec)
        head, rows = LMHead(model.config, NumpyBackend(), context), context.batch_slice(3)
        return program(head, X_BND[rows], weights, rows)

    return group.run(on_rank)


plans = pytest.mark.parametrize(
    "plan",
    [
        ParallelConfig(2, 2, 1),
        ParallelConfig(4, 1, 4),
        ParallelConfig(8, 4, 2),
        ParallelConfig(8, 1, 8),
    ],
)


def test_alone_it_is_norm_and_product_of_the_rows_asked_for():
    norm_D, w_VD = MODEL.weights.final_norm_D, MODEL.weights.w_logits_VD
    x_BnD = np.take_along_axis(X_BND, np.minimum(INDEX_Bn, 1)[:, :, None], axis=1)
    y_BnD = x_BnD / np.sqrt(np.mean(x_BnD**2, -1, keepdims=True) + MODEL.config.layernorm_epsilon)
    assert_agrees(EXPECTED, y_BnD * norm_D @ w_VD.T, scale=10 * np.max(np.abs(EXPECTED)))


@plans
def test_every_rank_gets_the_logits_of_all(plan):
    first, *others = on_ranks(
        plan, lambda head, x, weights, rows: head.logits(x, INDEX_Bn, weights, rows=rows)
    )
    assert (first.shape, first.dtype) == ((3, 2, V), np.float32)
    assert_agrees(first, EXPECTED)
    for other in others:
        np.testing.assert_array_equal(other, first)


@plans
def test_every_rank_gets_the_likeliest_words_and_their_logits(plan):
    outputs = on_ranks(
        plan, lambda head, x, weights, rows: head.greedy(x, INDEX_Bn, weights, rows=rows)
    )
    for token_Bn, logit_Bn in outputs:
        assert (token_Bn.dtype, logit_Bn.dtype) == (np.int32, np.float32)
        np.testing.assert_array_equal(token_Bn, np.argmax(EXPECTED, axis=2))
        assert_agrees(logit_Bn, np.max(EXPECTED, axis=2), scale=np.max(np.abs(EXPECTED)))


def test_a_rank_may_have_no_word():
    few = tiny(Recipe(dense_width=32, experts=8, vocabulary=3))
    alone = LMHead(few.config, NumpyBackend(), ParallelContext(ParallelConfig(), SoloGroup()))
    expected = alone.logits(X_BND, INDEX_Bn, few.weights, rows=ROWS)

    def both(head, x, weights, rows):
        args = x, INDEX_Bn, weights
        return head.logits(*args, rows=rows), head.greedy(*args, rows=rows)

    for logits_BnV, (token_Bn, logit_Bn) in on_ranks(ParallelConfig(4, 4, 1), both, few):
        assert_agrees(logits_BnV, expected)
        np.testing.assert_array_equal(token_Bn, np.argmax(expected, axis=2))
        assert_agrees(logit_Bn, np.max(expected, axis=2), scale=np.max(np.abs(expected)))


def test_of_equal_logits_the_lowest_word_is_chosen_whoever_has_it():
    """Rows with one nonzero weight give equal logits in whatever order BLAS adds the zeros."""
    twins = np.array(MODEL.weights.w_logits_VD)
    epsilon = MODEL.config.layernorm_epsilon
    y_D = rmsnorm(X_BND, MODEL.weights.final_norm_D, epsilon=epsilon)[0, 0]
    largest = int(np.argmax(np.abs(y_D)))
    row_D = np.zeros_like(twins[0])
    row_D[largest] = 2 * np.max(EXPECTED[0, 0]) / y_D[largest]
    twins[[7, 40, 55]] = row_D  # on three ranks
    weights = MODEL.weights._replace(w_logits_VD=twins)
    group, plan = ThreadGroup(4), ParallelConfig(4, 4, 1)

    def on_rank(rank: int) -> np.ndarray:
        context = ParallelContext(plan, group)
        shard = shard_weights(weights, MODEL.config, context.shard_spec)
        head = LMHead(MODEL.config, NumpyBackend(), context)
        return head.greedy(X_BND, INDEX_Bn, shard, rows=ROWS)[0]

    logits_BnV = ALONE.logits(X_BND, INDEX_Bn, weights, rows=ROWS)
    assert len(set(logits_BnV[0, 0, [7, 40, 55]].tolist())) == 1
    for token_Bn in [ALONE.greedy(X_BND, INDEX_Bn, weights, rows=ROWS)[0], *group.run(on_rank)]:
        assert token_Bn[0, 0] == 7
        np.testing.assert_array_equal(token_Bn, np.argmax(logits_BnV, axis=2))
