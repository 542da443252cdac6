"""The head: every rank gets all logits, of all rows and words, from the ranks that have them."""

import numpy as np
import pytest

from mimo_v2_flash.backends import NumpyBackend
from mimo_v2_flash.groups import SoloGroup, ThreadGroup
from mimo_v2_flash.layers.head import Head
from mimo_v2_flash.layers.ranks import Ranks
from mimo_v2_flash.plan import Plan
from mimo_v2_flash.weights.cut import cut_model
from tests.support.agreement import assert_agrees
from tests.support.tiny import Recipe, tiny

MODEL = tiny(Recipe(dense_width=32, experts=8))
V = MODEL.config.vocab_size  # 61: no two ranks have as many words
X_BND = np.random.default_rng(0).standard_normal((3, 2, 23)).astype(np.float32)
ALONE = Head(MODEL.config, NumpyBackend(), Ranks(Plan(), SoloGroup()))
EXPECTED = ALONE(X_BND, MODEL.weights, rows=slice(0, 3), batch_size=3)


def test_alone_it_is_norm_and_product():
    norm_D, w_VD = MODEL.weights.final_norm_D, MODEL.weights.w_logits_VD
    y_BND = X_BND / np.sqrt(np.mean(X_BND**2, -1, keepdims=True) + MODEL.config.layernorm_epsilon)
    assert_agrees(EXPECTED, y_BND * norm_D @ w_VD.T, scale=10 * np.max(np.abs(EXPECTED)))


@pytest.mark.parametrize("plan", [Plan(2, 2, 1), Plan(4, 1, 4), Plan(8, 4, 2), Plan(8, 1, 8)])
def test_every_rank_gets_the_logits_of_all(plan):
    group = ThreadGroup(plan.world)

    def of_rank(rank: int) -> np.ndarray:
        ranks = Ranks(plan, group)
        weights, rows = cut_model(MODEL.weights, MODEL.config, ranks.share), ranks.rows(3)
        head = Head(MODEL.config, NumpyBackend(), ranks)
        return head(X_BND[rows], weights, rows=rows, batch_size=3)

    first, *others = group.run(of_rank)
    assert (first.shape, first.dtype) == ((3, 2, V), np.float32)
    assert_agrees(first, EXPECTED)
    for other in others:
        np.testing.assert_array_equal(other, first)
