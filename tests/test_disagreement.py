"""Ranks called with different arguments raise an error that names ranks and values."""

from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.rows import ragged
from tests.support.tiny import Recipe, random_tokens, running, tiny

MODEL = tiny(Recipe(experts=8, dense_width=32))
UNSHARDED = MODEL.weights
OTHER = MODEL._replace(weights=UNSHARDED._replace(final_norm_D=UNSHARDED.final_norm_D * 2))
TOKEN_BT, POSITION_BT = ragged([random_tokens(MODEL, 5), random_tokens(MODEL, 3)], [0, 0])


def on_ranks(program) -> None:
    """Run `program(rank, options)` on four ranks."""
    group = ThreadGroup(4)
    options = {"group": group, "plan": ParallelConfig(4, 2, 2)}
    group.run(lambda rank: program(rank, options))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"model": OTHER}, "weights: '.*' on ranks 0 to 2; '.*' on rank 3"),
        (
            {"model": MODEL._replace(config=replace(MODEL.config, rope_theta=7.0))},
            r"config: .* on ranks 0 to 2; .* on rank 3",
        ),
        ({"max_step": 7}, "max_step: 512 on ranks 0 to 2; 7 on rank 3"),
        ({"exchange": "all_gather"}, "exchange: None on ranks 0 to 2; 'all_gather' on rank 3"),
        (
            {"expert_subset": range(1, 8)},
            "expert_parallel_size = 4: allowed is a divisor of 7 experts",
        ),
        (
            {"plan": ParallelConfig(2, 2, 2)},
            "plan: .*expert_parallel_size=4.* on ranks 0 to 2; .*=2.* on rank 3",
        ),
    ],
    ids=lambda odd: next(iter(odd)) if isinstance(odd, dict) else "",
)
def test_ranks_with_different_models_are_told_apart(odd, message):
    def program(rank: int, options: dict) -> None:
        running(**({"model": MODEL} | options | (odd if rank == 3 else {})))

    with pytest.raises(ValueError, match=message):
        on_ranks(program)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"token_BT": TOKEN_BT + np.eye(2, 5, dtype=int)}, "token_BT: .* on ranks 0, 2, 3; .* on"),
        (
            {"position_BT": POSITION_BT[:, :4], "token_BT": TOKEN_BT[:, :4]},
            r"position_BT: \(\(2, 5",
        ),
        ({"logits_at": [[0], [1]]}, r"logits_at: .* on ranks 0, 2, 3; \(\(2, 1\), .* on rank 1"),
    ],
    ids=["tokens", "lengths", "logits"],
)
def test_ranks_with_different_steps_are_told_apart(odd, message):
    step = {"token_BT": np.minimum(TOKEN_BT, 50), "position_BT": POSITION_BT, "logits_at": None}

    def program(rank: int, options: dict) -> None:
        model = running(MODEL, **options)
        cache = model.new_cache(2, 9)
        model.step(**(step | (odd if rank == 1 else {})), cache=cache)
        assert cache.length_B.tolist() == [0, 0]

    with pytest.raises(ValueError, match=message):
        on_ranks(program)
