"""LM head: every rank gets the logits, or the greedy tokens, of all rows."""

import numpy as np
import pytest

from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.layers.head import GreedyTokens, Logits
from mimo_v2_flash.layers.parallel_context import ParallelContext
from mimo_v2_flash.parallel import SoloGroup, ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.tiny import Recipe, running, tiny

MODEL = tiny(Recipe(dense_width=32, experts=8))
V = MODEL.config.vocab_size  # 61: vocabulary shards differ in size
X_BND = np.random.default_rng(0).standard_normal((3, 2, 23)).astype(np.float32)
INDEX_Bn = np.array([[0, 1], [1, 1], [0, 1]])


def computed(output, x_BTD, weights, context, rows) -> list[np.ndarray]:
    """Return a rank's outputs at INDEX_Bn, as all ranks add them up."""
    outputs, x_BTD = output.allocate((3, 2)), x_BTD[rows]
    row_bn = np.arange(len(x_BTD))[:, None] * x_BTD.shape[1] + INDEX_Bn[rows]
    row_N, is_wanted_bn = row_bn.ravel().astype(np.int32), np.ones(row_bn.shape, bool)
    if len(row_N):
        local = [array[rows] for array in outputs]
        x_ND = x_BTD.reshape(-1, 23)
        output.fill(local, is_wanted_bn, x_ND, row_N, slice(None), weights)
    return [context.world_group.all_reduce(array) for array in outputs]


def on_ranks(plan: ParallelConfig, kind, weights=MODEL.weights, x_BTD=X_BND) -> list:
    """Return the outputs of `kind` on every rank."""
    group = ThreadGroup(plan.world_size)

    def on_rank(rank: int):
        context = ParallelContext(plan, group)
        shard = shard_weights(weights, MODEL.config, context.shard_spec)
        output = kind(MODEL.config, NumpyBackend(), context)
        rows = context.rank_rows(3)[context.data_parallel_rank]
        return computed(output, x_BTD, shard, context, rows)

    return group.run(on_rank)


def alone(kind, weights=MODEL.weights) -> list[np.ndarray]:
    context = ParallelContext(ParallelConfig(), SoloGroup())
    output = kind(MODEL.config, NumpyBackend(), context)
    return computed(output, X_BND, weights, context, slice(0, 3))


(EXPECTED,) = alone(Logits)
plans = pytest.mark.parametrize(
    "plan",
    [
        ParallelConfig(2, 2, 1),
        ParallelConfig(4, 1, 4),
        ParallelConfig(8, 4, 2),
        ParallelConfig(8, 1, 8),
    ],
)


def test_alone_it_is_norm_and_product_of_the_wanted_tokens():
    norm_D, w_VD = MODEL.weights.final_norm_D, MODEL.weights.w_logits_VD
    x_BnD = np.take_along_axis(X_BND, INDEX_Bn[:, :, None], axis=1)
    y_BnD = x_BnD / np.sqrt(np.mean(x_BnD**2, -1, keepdims=True) + MODEL.config.layernorm_epsilon)
    assert_agrees(EXPECTED, y_BnD * norm_D @ w_VD.T, scale=10 * np.max(np.abs(EXPECTED)))


def test_what_is_not_kept_is_not_written():
    context = ParallelContext(ParallelConfig(), SoloGroup())
    output = Logits(MODEL.config, NumpyBackend(), context)
    outputs, is_wanted_bn = output.allocate((3, 2)), np.zeros((3, 2), bool)
    is_wanted_bn[[0, 2], [1, 0]] = True
    row_N, kept = np.arange(6, dtype=np.int32), np.array([1, 4])
    output.fill(outputs, is_wanted_bn, X_BND.reshape(6, 23), row_N, kept, MODEL.weights)
    assert not outputs[0][~is_wanted_bn].any()
    assert_agrees(outputs[0][0, 1], EXPECTED[0, 1])
    assert_agrees(outputs[0][2, 0], EXPECTED[2, 0])


@plans
def test_every_rank_gets_the_logits_of_all(plan):
    (first,), *others = on_ranks(plan, Logits)
    assert (first.shape, first.dtype) == ((3, 2, V), np.float32)
    assert_agrees(first, EXPECTED)
    for (other,) in others:
        np.testing.assert_array_equal(other, first)


@plans
def test_every_rank_gets_the_greedy_tokens_and_their_logits(plan):
    for token_Bn, logit_Bn in on_ranks(plan, GreedyTokens):
        assert (token_Bn.dtype, logit_Bn.dtype) == (np.int32, np.float32)
        np.testing.assert_array_equal(token_Bn, np.argmax(EXPECTED, axis=2))
        assert_agrees(logit_Bn, np.max(EXPECTED, axis=2), scale=np.max(np.abs(EXPECTED)))


def test_a_rank_may_have_no_token_of_the_vocabulary():
    few = tiny(Recipe(dense_width=32, experts=8, vocabulary=3))
    step = np.array([[0, 2]]), np.array([[0, 1]])
    expected_BTV = running(few).forward(step[0])
    group, plan = ThreadGroup(4), ParallelConfig(4, 4, 1)

    def both(_: int):
        model = running(few, group=group, plan=plan)
        return model.forward(step[0]), model.greedy(*step, model.new_cache(1, 2))

    for logits_BTV, (token_BT, logit_BT) in group.run(both):
        assert_agrees(logits_BTV, expected_BTV, scale=np.ptp(expected_BTV))
        np.testing.assert_array_equal(token_BT, np.argmax(logits_BTV, axis=2))
        assert_agrees(logit_BT, np.max(logits_BTV, axis=2))


def test_of_equal_logits_the_lowest_token_is_chosen_whoever_has_it():
    """Rows with one nonzero weight give equal logits in whatever order BLAS adds the zeros."""
    twins = np.array(MODEL.weights.w_logits_VD)
    epsilon = MODEL.config.layernorm_epsilon
    y_D = rmsnorm(X_BND[0], MODEL.weights.final_norm_D, epsilon=epsilon)[0]
    largest = int(np.argmax(np.abs(y_D)))
    row_D = np.zeros_like(twins[0])
    row_D[largest] = 2 * np.max(EXPECTED[0, 0]) / y_D[largest]
    twins[[7, 40, 55]] = row_D  # on three ranks
    weights = MODEL.weights._replace(w_logits_VD=twins)
    (logits_BnV,) = alone(Logits, weights)
    assert len(set(logits_BnV[0, 0, [7, 40, 55]].tolist())) == 1
    ranks = on_ranks(ParallelConfig(4, 4, 1), GreedyTokens, weights)
    for token_Bn, _ in [alone(GreedyTokens, weights), *ranks]:
        assert token_Bn[0, 0] == 7
        np.testing.assert_array_equal(token_Bn, np.argmax(logits_BnV, axis=2))
