"""Statistics of a run on several ranks are those of one: experts that were used, cache bytes."""

import numpy as np
import pytest

from mimo_v2_flash.cli.parallel_options import SINGLE_RANK, RankSetup
from mimo_v2_flash.layers.generation_stats import GenerationStats
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.tiny import Recipe, random_tokens, running, tiny

MODEL = tiny(Recipe(dense_width=32, experts=16))


def run_model(setup: RankSetup, token_BT: np.ndarray) -> tuple[tuple[int, int], int, np.ndarray]:
    """Return experts touched, bytes of the caches, and logits."""
    stats = GenerationStats(MODEL.config, *setup)
    model = running(MODEL, backend=stats, **setup._asdict())
    model.forward(random_tokens(MODEL, 1, 40, seed=1))  # discarded by begin()
    stats.begin()
    logits_BTV = model.forward(token_BT)
    return stats.experts_touched(), stats.total(model.new_cache(8, 9).nbytes), logits_BTV


@pytest.mark.parametrize(
    "plan", [ParallelConfig(2, 1, 2), ParallelConfig(8, 2, 4), ParallelConfig(4, 4, 1)], ids=str
)
def test_experts_touched_on_all_ranks_are_those_of_one(plan):
    group, token_BT = ThreadGroup(plan.world_size), random_tokens(MODEL, 2, 3)
    touched, cached, logits_BTV = run_model(SINGLE_RANK, token_BT)
    for of_rank, cached_on_ranks, same_BTV in group.run(
        lambda _: run_model(RankSetup(group, plan), token_BT)
    ):
        assert of_rank == touched
        assert touched[0] < touched[1] == 3 * 16
        assert cached_on_ranks >= cached
        np.testing.assert_allclose(same_BTV, logits_BTV, atol=1e-4 * np.ptp(logits_BTV))


def test_dispatch_of_all_ranks_is_recorded_since_the_start():
    group = ThreadGroup(2)
    setup = RankSetup(group, ParallelConfig(2, 1, 2))

    def on_rank(_: int) -> tuple[float, float]:
        stats = GenerationStats(MODEL.config, *setup)
        model = running(MODEL, backend=stats, **setup._asdict())
        model.forward(random_tokens(MODEL, 1, 40, seed=1))
        stats.begin()
        model.forward(random_tokens(MODEL, 2, 3))
        return tuple(
            stats.dispatch.by_dispatcher[name].calls for name in ("all_gather", "all_to_all")
        )

    assert group.run(on_rank) == [(3, 0)] * 2


def test_alone_as_many_bytes_as_were_counted():
    assert GenerationStats(MODEL.config, *SINGLE_RANK).total(7) == 7
